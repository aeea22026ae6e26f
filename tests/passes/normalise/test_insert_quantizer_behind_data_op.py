# SPDX-License-Identifier: Apache-2.0
"""What moves codes gives codes again; each reason to leave it."""

import pytest

from qcompile.passes.normalise.insert_quantizer_behind_data_op import InsertQuantizerBehindDataOp
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

C = "<float s = {0.5}, uint8 z = {1}, float[2] t = {0.5, 2}, uint8[2] u = {1, 1}>"


def test_one_op_after_the_other() -> None:
    text = f"""f (uint8[1,2,2,2] c) => (float[1,2] y) {C}
    {{ x = DequantizeLinear (c, s, z)   p = MaxPool <kernel_shape = [2, 2]> (x)
      q = Flatten (p)   y = Add (q, q) }}"""
    after = parse(text)
    assert InsertQuantizerBehindDataOp()(after).modified
    assert [n.op_type for n in after.graph].count("QuantizeLinear") == 2
    assert_equal_outputs(parse(text), after)


@pytest.mark.parametrize(
    ("output", "text", "reason"),
    [
        ("float[2,2] y", "y = Transpose (x)", "it gives a graph output"),
        ("float[2,2] y", "v = Transpose (x)   y = Exp (v)", "no int8 op reads it"),
        (
            "uint8[2,2] y",
            "v = Transpose (x)   y = QuantizeLinear (v, s, z)",
            "its output is quantized already",
        ),
    ],
)
def test_left_alone(output: str, text: str, reason: str) -> None:
    text = f"f (uint8[2,2] c) => ({output}) {C} {{ x = DequantizeLinear (c, s, z)   {text} }}"
    assert_left_alone(InsertQuantizerBehindDataOp(), text, reason)


def test_several_scales() -> None:
    text = f"""f (uint8[2,2] c) => (float[2,2] y) {C}
    {{ x = DequantizeLinear <axis = 0> (c, t, u)   v = Transpose (x)   y = Add (v, v) }}"""
    reason = "its input has no uint8 codes of one scale"
    assert_left_alone(InsertQuantizerBehindDataOp(), text, reason)
