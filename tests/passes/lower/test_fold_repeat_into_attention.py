# SPDX-License-Identifier: Apache-2.0
"""Heads that Expand repeats are read where they lie, by both attentions."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile import dynamic_attention
from qcompile.attention import ATTENTIONS
from qcompile.dynamic_attention import mark
from qcompile.graph import DOMAIN, attribute, is_op
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.fold_repeat_into_attention import FoldRepeatIntoAttention
from qcompile.verify_attention import check_attention, check_dynamic_attention
from tests.passes.graphs import parse
from tests.passes.stages import Staged, ops, run_lowered, run_passes, staged, with_weights

# Four heads of q, two of k and v; turned by Neg and Concat, so that q and k are no codes.
GROUPED = """f (float[b,ROWS,16] x, float w, float u, float v, float o) => (float[b,ROWS,32] y)
<int64[4] heads = {0, 0, 4, 8}, int64[4] few = {0, 0, 2, 8}, int64[3] joined = {0, 0, 32},
 int64[1] zero = {0}, int64[1] four = {4}, int64[1] eight = {8}, int64[1] last = {3},
 int64[1] place = {AXIS}, int64[5] copies = {COPIES}, int64[4] all = {ALL}, float part = {0.35},
 float[ROWS,ROWS] mask = {BODY}>
{ q_flat = MatMul (x, w)   k_flat = MatMul (x, u)   v_flat = MatMul (x, v)
  q_heads = Reshape (q_flat, heads)   q = Transpose <perm = [0, 2, 1, 3]> (q_heads)
  k_heads = Reshape (k_flat, few)   v_heads = Reshape (v_flat, few)
  k_first = Slice (k_heads, zero, four, last)   k_second = Slice (k_heads, four, eight, last)
  k_turned = Neg (k_second)   k_few = Concat <axis = -1> (k_turned, k_first)
  REPEATED
  r = MatMul (q, k)   h = Mul (r, part)   s = Add (h, mask)   p = Softmax (s)   a = MatMul (p, t)
  a_heads = Transpose <perm = [0, 2, 1, 3]> (a)   a_flat = Reshape (a_heads, joined)
  y = MatMul (a_flat, o) }"""
HEADS_FIRST = """k_swapped = Transpose <perm = [0, 2, 1, 3]> (k_few)
  v_swapped = Transpose <perm = [0, 2, 1, 3]> (v_heads)
  k_new = Unsqueeze (k_swapped, place)   k_wide = Expand (k_new, copies)
  k_all = Reshape (k_wide, all)   k = Transpose <perm = [0, 1, 3, 2]> (k_all)
  v_new = Unsqueeze (v_swapped, place)   v_wide = Expand (v_new, copies)
  t = Reshape (v_wide, all)"""
LENGTH_FIRST = """k_new = Unsqueeze (k_few, place)   k_wide = Expand (k_new, copies)
  k_all = Reshape (k_wide, all)   k = Transpose <perm = [0, 2, 3, 1]> (k_all)
  v_new = Unsqueeze (v_heads, place)   v_wide = Expand (v_new, copies)
  v_all = Reshape (v_wide, all)   t = Transpose <perm = [0, 2, 1, 3]> (v_all)"""


WEIGHTS = {"w": (16, 32), "u": (16, 16), "v": (16, 16), "o": (32, 32)}


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of these small nets would stay float, for they gain nothing."""
    monkeypatch.setattr(dynamic_attention, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(dynamic_attention, "LEAST_KEYS", 0)


def lowered(text: str, preset: str = "w8a8-dynamic") -> tuple[Staged, ir.Model]:
    found = staged(with_weights(text, **WEIGHTS), preset, gives_floats=True)
    return found, run_passes(mark(found.quantized.clone(), found.plan), *LOWER_CPU())


def grouped(repeated: str, axis: int, copies: str, all_heads: str, rows: int = 5) -> str:
    mask = ", ".join("0" if s <= m else "-10000" for m in range(rows) for s in range(rows))
    text = (
        GROUPED.replace("BODY", mask)
        .replace("ROWS", str(rows))
        .replace("AXIS", str(axis))
        .replace("COPIES", copies)
    )
    return text.replace("ALL", all_heads).replace("REPEATED", repeated)


def checked(found: Staged, model: ir.Model, *, is_changed: bool = False) -> bool:
    """Whether verify finds the attention as near to float attention as its bound says."""
    values = run_lowered(model, found.feed).arrays
    (node,) = [n for n in model.graph if is_op(n, *ATTENTIONS, domain=DOMAIN)]
    name = node.outputs[0].name or ""
    if is_changed:
        values[name] = values[name].copy()
        values[name].reshape(-1)[0] += np.asarray(128).astype(values[name].dtype)
    given = {k: v.astype(np.float32) for k, v in values.items() if v.dtype.kind == "f"}
    is_static = node.op_type == "QAttention"
    check = check_attention if is_static else check_dynamic_attention
    (found_check,) = check(model, found.quantized, [values if is_static else values | given])
    return found_check.passed


@pytest.mark.parametrize("preset", ["w8a8-dynamic", "w8a8"])
@pytest.mark.parametrize(
    "text",
    [
        grouped(HEADS_FIRST, 2, "1, 1, 2, 1, 1", "0, 4, -1, 8"),
        grouped(LENGTH_FIRST, 3, "1, 1, 1, 2, 1", "0, 0, 4, 8"),
        grouped(HEADS_FIRST, 2, "1, 1, 2, 1, 1", "0, 4, -1, 8", rows=19),
    ],
)
def test_heads_that_are_repeated_are_read_where_they_lie(text: str, preset: str) -> None:
    found, model = lowered(text, preset)
    assert not {"Expand", "Transpose", "Softmax"} & set(ops(model))
    node = next(n for n in model.graph if is_op(n, *ATTENTIONS, domain=DOMAIN))
    assert [list(attribute(node, f"{n}_perm")) for n in "kv"] == [[0, 2, 3, 1], [0, 2, 1, 3]]
    assert checked(found, model)
    assert not checked(found, model, is_changed=True)


def test_heads_that_are_repeated_otherwise_are_repeated() -> None:
    """The whole list of heads twice: head h of q reads head h % 2."""
    text = grouped(HEADS_FIRST, 1, "1, 2, 1, 1, 1", "0, 4, -1, 8")
    found, model = lowered(text)
    assert ops(model).count("Expand") == 2
    assert checked(found, model)


@pytest.mark.parametrize(
    "repeated",
    [
        "n = Unsqueeze (k, two)   e = Expand (n, copies)   r = Reshape (e, longer)",
        "n = Unsqueeze (k, one)   e = Expand (n, over)   r = Reshape (e, heads)",
        "n = Unsqueeze (k, both)   m = Squeeze (n, two)   e = Expand (m, copies)   "
        "r = Reshape (e, heads)",
    ],
)
def test_left_alone(repeated: str) -> None:
    """Copies of another axis, heads in another order, more than one new axis."""
    text = f"""f (float[2,4,3,5] q, float[2,2,5,7] k, float[2,4,7,6] v) => (float[2,4,3,6] y)
    <int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2] both = {{2, 3}},
     int64[5] copies = {{1, 1, 2, 1, 1}},
     int64[5] over = {{1, 2, 1, 1, 1}}, int64[4] heads = {{0, -1, 5, 7}},
     int64[4] longer = {{0, 2, 10, 7}}>
    {{ {repeated}   y = com.qcompile.QDynamicAttention <multiplier = 1.0> (q, r, v) }}"""
    model = parse(text)
    before = ops(model)
    FoldRepeatIntoAttention()(model)
    assert ops(model) == before
