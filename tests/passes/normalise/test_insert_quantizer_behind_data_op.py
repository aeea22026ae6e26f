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


def test_a_shortcut_that_is_padded() -> None:
    text = f"""f (uint8[1,2,4,4] c) => (float[1,4,2,2] y) {C[:-1]}, int64[8] pads =
    {{0, 1, 0, 0, 0, 1, 0, 0}}, int64[2] zeros = {{0, 0}}, int64[2] ends = {{4, 4}},
    int64[2] axes = {{2, 3}}, int64[2] steps = {{2, 2}}>
    {{ x = DequantizeLinear (c, s, z)   h = Slice (x, zeros, ends, axes, steps)
      p = Pad (h, pads)   y = Add (p, p) }}"""
    after = parse(text)
    assert InsertQuantizerBehindDataOp()(after).modified
    assert [n.op_type for n in after.graph].count("QuantizeLinear") == 2
    assert_equal_outputs(parse(text), after)


PAD = "<float s = {0.5}, uint8 z = {1}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float one = {1}>"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p = Pad (x, pads)   y = Conv (p, w)", "a Conv takes it in"),
        ("p = Pad (x, pads, one)   y = Add (p, p)", "Pad: pads with something other than 0"),
    ],
)
def test_pads_that_are_left(body: str, reason: str) -> None:
    text = f"""f (uint8[1,2,2,2] c, float[2,2,1,1] w) => (float[1,2,4,4] y) {PAD}
    {{ x = DequantizeLinear (c, s, z)   {body} }}"""
    assert_left_alone(InsertQuantizerBehindDataOp(), text, reason)


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
