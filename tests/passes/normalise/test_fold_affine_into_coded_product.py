# SPDX-License-Identifier: Apache-2.0
"""Factors by output go into the scales of codes, sums into the bias; powers of two are exact."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.normalise import normalise
from qcompile.passes.normalise.fold_affine_into_coded_product import FoldAffineIntoCodedProduct
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

CODES = "int8[2,1,1,1] q = {3, -4}, float[2] s = {0.5, 0.25}"
WHOLE = "int8[2,1,1,1] q = {3, -4}, float s = {0.5}, int8 z = {1}"
F, B = "float[2,1,1] f = {2, 4}", "float[2,1,1] b = {1, -2}"


def conv(text: str, constants: str, back: str = "DequantizeLinear <axis = 0> (q, s)") -> str:
    return f"""f (float[1,1,3,3] x) => (float[1,2,3,3] y) <{constants}>
    {{ w = {back}   c = Conv (x, w)   {text} }}"""


def folded(text: str) -> tuple[list[str], list[np.ndarray]]:
    """The ops left and the constants of what dequantizes; outputs stay equal."""
    model = parse(text)
    assert FoldAffineIntoCodedProduct()(model).modified
    assert model.graph[-1].outputs[0].name == "y"
    assert_equal_outputs(parse(text), model)
    back = next(n for n in model.graph if n.op_type == "DequantizeLinear")
    return [n.op_type for n in model.graph], [constant(v) for v in back.inputs]


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("y = Mul (c, f)", F),
        ("y = Div (c, f)", F),
        ("y = Mul (f, c)", F),
        ("y = Add (c, b)", B),
        ("y = Sub (c, b)", B),
        ("d = Div (c, f)   e = Add (d, b)   y = Mul (e, f)", f"{F}, {B}"),
        ("y = Mul (c, n)", "float[2,1,1] n = {2, -4}"),
        ("y = Mul (c, n)", "float n = {-0.5}"),
        ("d = Div (c, n)   e = Sub (d, b)   y = Mul (e, n)", f"float[2,1,1] n = {{2, -4}}, {B}"),
    ],
)
def test_conv(text: str, constants: str) -> None:
    ops, (codes, scale) = folded(conv(text, f"{CODES}, {constants}"))
    assert ops == ["DequantizeLinear", "Conv"]
    assert np.array_equal(np.abs(codes).ravel(), [3, 4])
    assert (scale > 0).all()


def test_one_scale_and_zero_point_become_one_an_output() -> None:
    text = conv("y = Mul (c, f)", f"{WHOLE}, {F}", "DequantizeLinear (q, s, z)")
    ops, (codes, scale, point) = folded(text)
    assert ops == ["DequantizeLinear", "Conv"]
    assert (codes.ravel().tolist(), scale.tolist(), point.tolist()) == ([3, -4], [1, 2], [1, 1])


def test_a_sign_that_is_taken_back_turns_no_codes() -> None:
    """−128 has no opposite, and needs none."""
    text = conv("d = Div (c, n)   y = Mul (d, m)", f"{CODES}, float n = {{-4}}, float m = {{-2}}")
    ops, (codes, scale) = folded(text.replace("{3, -4}", "{3, -128}"))
    assert ops == ["DequantizeLinear", "Conv"]
    assert (codes.ravel().tolist(), scale.tolist()) == ([3, -128], [0.25, 0.125])


def test_gemm() -> None:
    text = """f (float[4,3] x) => (float[4,2] y)
    <int8[2,3] q = {1, 2, 3, 4, 5, 6}, float[2] s = {0.5, 2}, float[2] f = {2, 4},
     float[2] b = {1, 2}>
    { w = DequantizeLinear <axis = 0> (q, s)   c = Gemm <transB = 1> (x, w, b)   y = Mul (c, f) }"""
    ops, (_, scale) = folded(text)
    assert (ops, scale.tolist()) == (["DequantizeLinear", "Gemm"], [1, 8])


def test_a_batch_norm_behind_a_factor_is_all_in_the_codes() -> None:
    """What PyTorch's training for quantization exports, through all of normalise."""
    text = conv(
        "d = Div (c, f)   e = Add (d, b)   y = BatchNormalization <epsilon = 0.0> (e, g, h, m, v)",
        f"{CODES}, {F}, {B}, float[2] g = {{2, 1}}, float[2] h = {{1, 3}}, "
        "float[2] m = {0.5, 2}, float[2] v = {4, 0.25}",
    )
    model = normalise(parse(text))
    assert [n.op_type for n in model.graph] == ["DequantizeLinear", "Conv"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv("y = Mul (c, f)   z = Neg (c)", f"{CODES}, {F}"), "c has another reader"),
        (conv("y = Div (f, c)", f"{CODES}, {F}"), "Div of a constant by the product"),
        (conv("y = Sub (b, c)", f"{CODES}, {B}"), "Sub of a constant by the product"),
        (conv("y = Mul (c, o)", f"{CODES}, float[2,1,1] o = {{0, 1}}"), "a factor of 0"),
        (
            conv("y = Mul (c, r)", f"{CODES}, float[3] r = {{1, 2, 3}}"),
            "its constant is not one number or one an output",
        ),
        (
            conv("y = Mul (c, r)", f"{CODES}, float[1,1,2,1,1] r = {{1, 2}}").replace(
                "(float[1,2,3,3] y)", "(float[1,1,2,3,3] y)"
            ),
            "its constant is not one number or one an output",
        ),
        (
            conv(
                "y = Mul (c, n)",
                f"{WHOLE}, float[2,1,1] n = {{2, -4}}",
                "DequantizeLinear (q, s, z)",
            ),
            "a factor below 0 of codes that have no opposite",
        ),
        (
            conv("y = Mul (c, n)", f"{CODES}, float n = {{-1}}").replace("{3, -4}", "{3, -128}"),
            "a factor below 0 of codes that have no opposite",
        ),
    ],
    ids=["reader", "divided by", "subtracted from", "zero", "rows", "rank", "zero points", "-128"],
)
def test_left_alone(text: str, reason: str) -> None:
    if "z = Neg" in text:
        text = text.replace("(float[1,2,3,3] y)", "(float[1,2,3,3] y, float[1,2,3,3] z)")
    assert_left_alone(FoldAffineIntoCodedProduct(), text, reason)


@pytest.mark.parametrize(
    "text",
    [
        conv("y = Mul (c, x)", CODES),
        conv("y = Neg (c)", CODES),
        f"""f (float[1,1,3,3] x) => (float[1,2,3,3] y) <float[2,1,1,1] w = {{1, 2}}, {F}>
        {{ c = Conv (x, w)   y = Mul (c, f) }}""",
    ],
    ids=["two activations", "another op", "a float weight"],
)
def test_no_candidate(text: str) -> None:
    assert_left_alone(FoldAffineIntoCodedProduct(), text)
