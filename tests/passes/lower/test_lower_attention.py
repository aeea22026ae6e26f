# SPDX-License-Identifier: Apache-2.0
"""The attention of codes becomes QAttention, with its factors, mask and transposes inside."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.attention import SOFTMAX_FORMAT, SOFTMAX_SHIFT, attention_at
from qcompile.graph import attribute
from qcompile.numerics.attention import rounding_bound
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_attention import LowerAttention
from qcompile.reference import activation_inputs, attention_numbers, attention_operands
from qcompile.verify_attention import attention_nodes, check_attention
from tests.passes.graphs import assert_left_alone, parse
from tests.passes.stages import Staged, find, ops, run_lowered, run_passes, staged, with_weights

SEPARATE = """f (float[b,5,16] x, float w, float u, float v, float o) => (float[b,5,16] y)
<int64[4] heads = {0, 0, 2, 8}, int64[3] joined = {0, 0, 16}, float part = {0.35},
 float[5,5] mask = {BODY}, float none = {0}>
{ q_flat = MatMul (x, w)   k_flat = MatMul (x, u)   v_flat = MatMul (x, v)
  q_heads = Reshape (q_flat, heads)   q = Transpose <perm = [0, 2, 1, 3]> (q_heads)
  k_heads = Reshape (k_flat, heads)   k = Transpose <perm = [0, 2, 3, 1]> (k_heads)
  v_heads = Reshape (v_flat, heads)   t = Transpose <perm = [0, 2, 1, 3]> (v_heads)
  SCORES
  WEIGHED   a = MatMul (p, t)   a_heads = Transpose <perm = [0, 2, 1, 3]> (a)
  a_flat = Reshape (a_heads, joined)   y = MatMul (a_flat, o) }"""
CAUSAL = ", ".join("0" if column <= row else "-10000" for row in range(5) for column in range(5))
WEIGHTS = dict.fromkeys("wuvo", (16, 16))


def lowered(text: str, **weights: tuple[int, ...]) -> tuple[Staged, ir.Model]:
    found = staged(with_weights(text, **(weights or WEIGHTS)), gives_floats=True)
    return found, run_passes(found.quantized, *LOWER_CPU())


def separate(scores: str, weighed: str = "p = Softmax (s)") -> tuple[Staged, ir.Model]:
    text = SEPARATE.replace("BODY", CAUSAL).replace("SCORES", scores)
    return lowered(text.replace("WEIGHED", weighed))


def checked(found: Staged, model: ir.Model, change: int = 0) -> bool:
    """Whether every QAttention is as near to float attention as the bound says."""
    values = run_lowered(model, found.feed).arrays
    for node in attention_nodes(model):
        name = node.outputs[0].name or ""
        if change:
            values[name] = values[name].copy()
            values[name].reshape(-1)[0] ^= change
    (check,) = check_attention(model, found.quantized, [values])
    assert check.count > 0
    return check.passed


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ("s = MatMul (q, k)", 1.0),
        ("r = MatMul (q, k)   s = Mul (r, part)", 0.35),
        ("r = MatMul (q, k)   s = Div (r, part)", 1 / 0.35),
        ("h = Mul (q, part)   i = Mul (part, k)   s = MatMul (h, i)", 0.35 * 0.35),
        ("h = Mul (q, part)   r = MatMul (h, k)   s = Add (r, mask)", 0.35),
        ("r = MatMul (q, k)   h = Mul (r, part)   s = Add (mask, h)", 0.35),
    ],
)
def test_between_products(scores: str, scale: float) -> None:
    found, model = separate(scores)
    kinds = [k for k in ops(model) if k != "Reshape"]
    assert kinds == ["QuantizeLinear", *["QMatMul"] * 3, "QAttention", "QMatMul"]
    node = find(model, "QAttention")
    assert [v.name for v in node.inputs[3:]] == ["mask"] * ("mask" in scores)
    params = [found.work.params(name).scale for name in ("q", "k")]
    expected = np.float32(params[0] * params[1] * scale)
    assert attribute(node, "multiplier") == pytest.approx(expected, rel=1e-6)
    perms = [attribute(node, f"{n}_perm") for n in "qkvy"]
    assert [list(p) for p in perms] == [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3], [0, 2, 1, 3]]
    assert checked(found, model)
    assert not checked(found, model, change=128)


def test_the_guard_of_rows_that_see_nothing_is_inside() -> None:
    weighed = "r0 = Softmax (s)   n = IsNaN (r0)   p = Where (n, none, r0)"
    found, model = separate("r = MatMul (q, k)   s = Add (r, mask)", weighed)
    assert ops(model).count("QAttention") == 1
    assert not {"IsNaN", "Where", "Softmax"} & set(ops(model))
    assert checked(found, model)
    _, other = separate("s = MatMul (q, k)", weighed.replace("(n, none, r0)", "(n, part, r0)"))
    assert "QAttention" not in ops(other)


@pytest.mark.parametrize(("name", "shift"), [("log2_3", "0"), ("log2_4", "0"), ("twin4", "3")])
def test_a_format_of_the_weights(name: str, shift: str) -> None:
    text = SEPARATE.replace("BODY", CAUSAL).replace("SCORES", "s = MatMul (q, k)")
    text = text.replace("WEIGHED", "p = Softmax (s)")
    found = staged(with_weights(text, **WEIGHTS), gives_floats=True)
    marks = {SOFTMAX_FORMAT: name, SOFTMAX_SHIFT: shift}
    (last,) = (n for n in found.quantized.graph if attention_at(n) is not None)
    last.metadata_props.update(marks)
    model = run_passes(found.quantized, *LOWER_CPU())
    node = find(model, "QAttention")
    assert attribute(node, "softmax_format") == name
    assert attribute(node, "softmax_shift", 0) == int(shift)
    assert checked(found, model)
    assert attention_numbers(node).softmax.text.startswith(name)


def test_a_row_that_sees_nothing_hides_no_other() -> None:
    """Its bound is NaN, which no comparison would fail."""
    found, model = separate("r = MatMul (q, k)   s = Add (r, mask)")
    for each in (found.quantized, model):
        array = each.graph.initializers["mask"].const_value.numpy().copy()  # type: ignore[union-attr]
        array[0] = -np.inf
        each.graph.initializers["mask"].const_value = ir.tensor(array, name="mask")
    values = run_lowered(model, found.feed).arrays
    name = find(model, "QAttention").outputs[0].name or ""
    (check,) = check_attention(model, found.quantized, [values])
    assert check.passed
    values[name] = values[name].copy()
    values[name][0, -1, 0, 0] ^= 128  # [batch, row, head, column]: the last row sees all
    (check,) = check_attention(model, found.quantized, [values])
    assert not check.passed


def test_the_bound_is_a_fraction_of_a_code_where_attention_is_sharp() -> None:
    """So that the rung is no check that cannot fail."""
    found, model = separate("h = Div (q, part)   s = MatMul (h, k)")
    values = run_lowered(model, found.feed).arrays
    node = find(model, "QAttention")
    given = [values[v.name or ""] for v in activation_inputs(node)]
    bound = rounding_bound(*attention_operands(node, given), attention_numbers(node))
    assert np.median(bound) < 1


def graph(body: str, shape: str = "2,3,4,4") -> str:
    """A graph on codes."""
    return f"""f (uint8[2,3,4,4] a, uint8[2,3,4,4] b, uint8[{shape}] c) => (uint8[2,3,4,4] y)
    <float z = {{0.5}}, uint8 e = {{8}}>
    {{ q = DequantizeLinear (a, z, e)   k = DequantizeLinear (b, z, e)
       v = DequantizeLinear (c, z, e)   {body} }}"""


ENDED = "r = MatMul (p, v)   y = QuantizeLinear (r, z, e)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            graph(f"s = MatMul (q, k)   p = Softmax <axis = 2> (s)   {ENDED}"),
            "attention: its Softmax is not over the last axis",
        ),
        (
            graph(f"s = MatMul (q, k)   p = Softmax (s)   {ENDED}", "4,4"),
            "attention: its operands have no common, known rank",
        ),
        (
            graph(
                "s = MatMul (q, k)   m = DequantizeLinear (c, z, e)   r1 = Add (s, m)   "
                "p = Softmax (r1)   r = MatMul (p, k)   y = QuantizeLinear (r, z, e)",
                "2,2,3,4,4",
            ),
            "attention: its mask [2,2,3,4,4] does not broadcast to its scores",
        ),
        (
            graph(f"h = Neg (q)   s = MatMul (h, k)   p = Softmax (s)   {ENDED}"),
            "not all of its operands are codes",
        ),
        (
            graph(
                "s = MatMul (q, k)   p = Softmax (s)   r = MatMul (p, v)   t = Neg (r)   "
                "y = QuantizeLinear (t, z, e)"
            ),
            "its output does not become codes",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(LowerAttention(), text, reason)


def test_scores_that_are_read_stay() -> None:
    text = graph(f"s = MatMul (q, k)   p = Softmax (s)   {ENDED}")
    model = parse(text.replace("(uint8[2,3,4,4] y)", "(uint8[2,3,4,4] y, float[2,3,4,4] p)"))
    each = LowerAttention()
    each(model)
    assert [r.reason for r in each.refusals] == ["attention: its scores are read"]
