# SPDX-License-Identifier: Apache-2.0
"""Float multipliers of int8 ops become dyadic numbers; floats of a product become int32."""

import numpy as np
import pytest

from qcompile.graph import attribute, constant
from qcompile.numerics.dyadic import as_operand
from qcompile.passes import LOWER_CPU, LOWER_INTEGER
from qcompile.passes.lower.lower_requantize_into_dyadic import LowerRequantizeIntoDyadic
from qcompile.passes.lower.lowered import MULTIPLIER
from tests.passes.graphs import assert_left_alone, assert_rewritten
from tests.passes.stages import find, ops, run_passes, staged, with_weights

SUM = "a_zero_point = 8, b_zero_point = 3, y_zero_point = 3, y_min = 0, y_max = 255"
NET = """f (float[b,8] x, float w, float k, float u) => (float[b,5] y)
{ m = MatMul (x, w)   a = Add (m, k)   r = Relu (a)   y = MatMul (r, u) }"""
SHAPES = {"w": (8, 8), "k": (8,), "u": (8, 5)}


@pytest.mark.parametrize(
    "attributes",
    [
        f"a_multiplier = 0.5, b_multiplier = 0.25, {SUM}",
        f"a_multiplier = 0.5, b_multiplier = -0.25, {SUM}",
    ],
)
def test_sum(attributes: str) -> None:
    text = (
        "f (uint8[2,3] a, uint8[2,3] b) => (uint8[2,3] y) {{ y = com.qcompile.QAdd <{}> (a, b) }}"
    )
    assert_rewritten(
        LowerRequantizeIntoDyadic(),
        text.format(attributes),
        text.format(f'{attributes}, requantize = "dyadic"'),
        is_runnable=False,
    )


def op(op_type: str, attributes: str) -> str:
    return f"""f (uint8[1,4,4,2] x) => (uint8[1,4,4,2] y)
    {{ y = com.qcompile.{op_type} <{attributes}> (x) }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (op("QResize", 'mode = "half_pixel"'), "it interpolates in float"),
        (op("QConv", 'activation = "dynamic"'), "its activations are dynamic"),
        (op("QMatMul", 'activation = "f32"'), "its activations are f32"),
        (op("QPool", 'mode = "max"'), None),
        (op("QPool", 'mode = "average", requantize = "dyadic"'), None),
        (op("QLut", "N = 1"), None),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(LowerRequantizeIntoDyadic(), text, reason)


def test_products() -> None:
    found = staged(with_weights(NET, **SHAPES), gives_floats=True)
    before, after = (run_passes(found.quantized, *p()) for p in (LOWER_CPU, LOWER_INTEGER))
    assert ops(after) == ["QuantizeLinear", "QMatMul", "QMatMul", "DequantizeLinear"]
    for old, new in zip(before.graph, after.graph, strict=False):
        if old.op_type != "QMatMul":
            continue
        multiplier, pairs = constant(old.inputs[MULTIPLIER]), constant(new.inputs[MULTIPLIER])
        assert multiplier is not None and pairs is not None
        if attribute(old, "output") != "f32":
            np.testing.assert_array_equal(pairs, as_operand(multiplier))
            continue
        scale = constant(find(after, "DequantizeLinear").inputs[1])
        assert scale is not None and float(scale) == multiplier.max()
        np.testing.assert_array_equal(pairs, as_operand(multiplier / np.float64(scale)))
        assert attribute(new, "output") == "i32" and new.outputs[0].dtype.name == "INT32"
        assert (attribute(new, "y_min"), attribute(new, "y_max")) == (-(2**31), 2**31 - 1)
    assert [v.name for v in after.graph.outputs] == ["y"]


def test_bounds_of_a_last_relu() -> None:
    text = NET.replace("y = MatMul (r, u)", "z = MatMul (r, u)   y = Relu (z)")
    found = staged(with_weights(text, **SHAPES), gives_floats=True)
    after = run_passes(found.quantized, *LOWER_INTEGER())
    last = [n for n in after.graph if n.op_type == "QMatMul"][-1]
    assert (attribute(last, "y_min"), attribute(last, "y_max")) == (0, 2**31 - 1)
    assert "clip_min" not in last.attributes
