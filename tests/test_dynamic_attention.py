# SPDX-License-Identifier: Apache-2.0
"""Which attentions of floats the plan gives to codes, and why not."""

import pytest

from qcompile import dynamic_attention, targets
from qcompile.annotate import annotate
from qcompile.normalise import normalise
from qcompile.plan import Plan
from qcompile.recipe import Recipe, Rule
from tests.passes.stages import with_weights

NET = """f (float[b,ROWS,32] x, float w, float u) => (float[b,ROWS,32] y)
{ flat = MatMul (x, w)   q = Neg (flat)   k = Transpose <perm = [0, 2, 1]> (q)
  s = MatMul (q, k)   p = Softmax <axis = AXIS> (s)   a = MatMul (p, q)   y = MatMul (a, u) }"""


def planned(
    preset: str = "w8a8-dynamic",
    *,
    rows: object = 64,
    width: int = 32,
    axis: int = -1,
    target: str = "cpu",
    **recipe: object,
) -> tuple[Plan, str]:
    """The plan, and the name of the MatMul that ends the attention."""
    text = NET.replace("ROWS", str(rows)).replace("AXIS", str(axis)).replace("32]", f"{width}]")
    model = normalise(with_weights(text, w=(width, width), u=(width, width)))
    chosen = Recipe(preset=preset, **recipe)  # type: ignore[arg-type]
    plan = annotate(model, chosen, targets.get(target), has_data=True)
    (last,) = [n.name for n in model.graph if n.outputs[0].name == "a"]
    return plan, last or ""


@pytest.mark.parametrize("preset", ["w8a8-dynamic", "w4a8-dynamic", "w2a4-dynamic"])
@pytest.mark.parametrize("rows", ["n", 1, 15, 64, 500])
def test_taken(preset: str, rows: object) -> None:
    plan, last = planned(preset, rows=rows)
    assert plan.attentions == {last}
    assert last not in plan.reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"width": 16},
            "attention: heads of 16 and 16 numbers; codes gain nothing below 64 together",
        ),
        ({"rows": 63}, "attention: 63 rows and 63 keys; codes gain nothing below 64 keys"),
        ({"rows": 16}, "attention: 16 rows and 16 keys; codes gain nothing below 64 keys"),
        ({"axis": 1}, "attention: its Softmax is not over the last axis"),
        ({"rules": (Rule(match="MatMul_a", exclude=True),)}, "excluded by"),
    ],
)
def test_left_in_float(changes: dict, reason: str) -> None:
    plan, last = planned(**changes)
    assert not plan.attentions
    assert not [note for note in plan.notes if "is about no" in note]
    assert plan.reasons[last].startswith(reason)


def test_fused_ops_have_a_reason() -> None:
    text = """f (float[b,64,32] x, float w, float u) => (float[b,64,32] y)
    { q = MatMul (x, w)   a = com.microsoft.MultiHeadAttention <num_heads = 1> (q, q, q)
      y = MatMul (a, u) }"""
    model = with_weights(text, w=(32, 32), u=(32, 32))
    model.opset_imports["com.microsoft"] = 1
    plan = annotate(
        normalise(model), Recipe(preset="w8a8-dynamic"), targets.get("cpu"), has_data=True
    )
    assert list(plan.reasons.values()) == [dynamic_attention.FUSED]


@pytest.mark.parametrize(
    ("preset", "target"), [("w8a16", "cpu"), ("w8a8-dynamic", "ort"), ("w4a16", "ort")]
)
def test_float_activations_and_other_targets_have_none(preset: str, target: str) -> None:
    plan, last = planned(preset, target=target)
    assert not plan.attentions
    assert last not in plan.reasons
