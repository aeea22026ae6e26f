# SPDX-License-Identifier: Apache-2.0
"""The attention of floats becomes QDynamicAttention where the plan says so."""

import re

import numpy as np
import onnx_ir as ir
import pytest

from qcompile import dynamic_attention, verify_attention
from qcompile.attention import MARK
from qcompile.dynamic_attention import mark
from qcompile.graph import attribute
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_dynamic_attention import LowerDynamicAttention
from qcompile.verify_attention import check_dynamic_attention, dynamic_nodes
from tests.passes.graphs import parse
from tests.passes.lower.test_lower_attention import CAUSAL, SEPARATE, WEIGHTS
from tests.passes.stages import Staged, find, ops, run_lowered, run_passes, staged, with_weights


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of these small nets would stay float, for they gain nothing."""
    monkeypatch.setattr(dynamic_attention, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(dynamic_attention, "LEAST_KEYS", 0)


def lowered(text: str, preset: str = "w8a8-dynamic", **recipe: object) -> tuple[Staged, ir.Model]:
    found = staged(with_weights(text, **WEIGHTS), preset, gives_floats=True, **recipe)
    return found, run_passes(mark(found.quantized.clone(), found.plan), *LOWER_CPU())


def separate(scores: str = "s = MatMul (q, k)", weighed: str = "p = Softmax (s)") -> str:
    text = SEPARATE.replace("BODY", CAUSAL).replace("SCORES", scores)
    return text.replace("WEIGHED", weighed)


def checked(found: Staged, model: ir.Model, change: float = 0) -> bool:
    """Whether every one is as near to float attention of its codes as the bound says."""
    values = run_lowered(model, found.feed).arrays
    for node in dynamic_nodes(model):
        name = node.outputs[0].name or ""
        values[name] = values[name].copy()
        values[name].reshape(-1)[0] += change
    given = {k: v.astype(np.float32) for k, v in values.items() if v.dtype.kind == "f"}
    (check,) = check_dynamic_attention(model, found.quantized, [values | given])
    assert check.count > 0
    return check.passed


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ("s = MatMul (q, k)", 1.0),
        ("h = Mul (q, part)   i = Mul (part, k)   s = MatMul (h, i)", 0.35 * 0.35),
        ("r = MatMul (q, k)   h = Div (r, part)   s = Add (mask, h)", 1 / 0.35),
    ],
)
def test_between_products(scores: str, scale: float) -> None:
    found, model = lowered(separate(scores))
    kinds = [k for k in ops(model) if k != "Reshape"]
    assert kinds == [*["QMatMul"] * 3, "QDynamicAttention", "QMatMul"]
    node = find(model, "QDynamicAttention")
    assert [v.name for v in node.inputs[3:]] == ["mask"] * ("mask" in scores)
    assert attribute(node, "multiplier") == pytest.approx(scale, rel=1e-6)
    perms = [list(attribute(node, f"{n}_perm")) for n in "qkvy"]
    assert perms == [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3], [0, 2, 1, 3]]
    assert checked(found, model)
    assert not checked(found, model, change=0.05)


def test_the_guard_of_rows_that_see_nothing_is_inside() -> None:
    weighed = "r0 = Softmax (s)   n = IsNaN (r0)   p = Where (n, none, r0)"
    found, model = lowered(separate("r = MatMul (q, k)   s = Add (r, mask)", weighed))
    assert not {"IsNaN", "Where", "Softmax"} & set(ops(model))
    assert checked(found, model)


def test_static_codes_go_first() -> None:
    _, model = lowered(separate(), "w8a8")
    assert "QAttention" in ops(model)
    assert "QDynamicAttention" not in ops(model)


@pytest.mark.parametrize(
    ("preset", "recipe", "reason"),
    [
        ("w8a16", {}, None),
        ("w8a8-dynamic", {"op_types_to_quantize": ("Gemm", "MatMul")}, ""),
    ],
)
def test_presets_of_floats_keep_it(preset: str, recipe: dict, reason: str | None) -> None:
    found, model = lowered(separate(), preset, **recipe)
    assert ("Softmax" in ops(model)) == (reason is None)
    assert bool(found.plan.attentions) == (reason is not None)


def test_left_alone() -> None:
    """Without the mark of the plan, whatever it is."""
    text = """f (float[2,3,4,4] q, float[2,3,4,4] k, float[2,3,4,4] v) => (float[2,3,4,4] y)
    { s = MatMul (q, k)   p = Softmax (s)   y = MatMul (p, v) }"""
    model = parse(text)
    assert not LowerDynamicAttention()(model).modified
    model.graph[-1].metadata_props[MARK] = "dynamic"
    assert LowerDynamicAttention()(model).modified
    assert ops(model) == ["QDynamicAttention"]
    turned = parse(re.sub("p = Softmax ", "p = Softmax <axis = 2> ", text))
    turned.graph[-1].metadata_props[MARK] = "dynamic"
    each = LowerDynamicAttention()
    each(turned)
    assert [r.reason for r in each.refusals] == ["attention: its Softmax is not over the last axis"]


def test_a_row_without_a_bound_hides_no_nan_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    found, model = lowered(separate())
    computed = verify_attention.as_computed

    def blind(*given: object) -> tuple:
        operands, bound = computed(*given)
        bound = bound.copy()
        bound[..., -1, :] = np.nan
        return operands, bound

    monkeypatch.setattr(verify_attention, "as_computed", blind)
    assert checked(found, model)
    assert not checked(found, model, change=np.nan)


def test_zeros_are_equal() -> None:
    """Values of 0 have a bound of 0."""
    found, model = lowered(separate())
    for x in found.feed.values():
        x[:] = 0
    assert checked(found, model)
    assert not checked(found, model, change=2.0**-100)
