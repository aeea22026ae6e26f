# SPDX-License-Identifier: Apache-2.0
"""Gemm has a constant weight and a constant vector; small integers keep this exact."""

import numpy as np
import pytest

from qcompile.passes.normalise.split_gemm import SplitGemm
from tests.passes.graphs import (
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    feeds,
    parse,
    run,
)

W = "float[2,3] w = {1, 2, 3, 4, 5, 6}"


def gemm(attributes: str, bias: str = "", more: str = "", x: str = "float[4,2] x") -> str:
    """x · w, with attributes and a bias."""
    operands = "x, w, b" if bias or "b" in more else "x, w"
    return f"f ({x}{more}) => (float[4,3] y) <{W}{bias}> {{ y = Gemm <{attributes}> ({operands}) }}"


@pytest.mark.parametrize("alpha", [2.0, -0.5])
def test_alpha_goes_into_the_weight(alpha: float) -> None:
    scaled = ", ".join(str(alpha * i) for i in range(1, 7))
    assert_rewritten(
        SplitGemm(),
        gemm(f"alpha = {alpha}"),
        f"""f (float[4,2] x) => (float[4,3] y) <float[2,3] w_scaled = {{{scaled}}}>
        {{ y = Gemm (x, w_scaled) }}""",
    )


@pytest.mark.parametrize("shape", ["", "[1]", "[1,1]", "[1,3]", "[3]"])
def test_beta_and_the_shape_of_a_bias(shape: str) -> None:
    numbers = "1, 2, 3" if "3" in shape else "1"
    wide = "2, 4, 6" if "3" in shape else "2, 2, 2"
    assert_rewritten(
        SplitGemm(),
        gemm("beta = 2.0", f", float{shape} b = {{{numbers}}}" if shape else ", float b = {1}"),
        f"""f (float[4,2] x) => (float[4,3] y) <{W}, float[3] y_bias = {{{wide}}}>
        {{ y = Gemm (x, w, y_bias) }}""",
    )


@pytest.mark.parametrize(
    ("bias", "shape"), [("float[4,1] b = {1, 2, 3, 4}", "[4,1]"), ("float[4,3] b", "")]
)
def test_a_bias_that_is_no_vector_is_added(bias: str, shape: str) -> None:
    constant, inputs = (f", {bias}", "") if shape else ("", f", {bias}")
    assert_rewritten(
        SplitGemm(),
        gemm("", constant, inputs).replace("<>", ""),
        f"""f (float[4,2] x{inputs}) => (float[4,3] y) <{W}{constant}>
        {{ y_product = Gemm (x, w)   y = Add (y_product, b) }}""",
    )


def test_beta_of_a_computed_bias() -> None:
    assert_rewritten(
        SplitGemm(),
        gemm("beta = 0.5", more=", float[3] b"),
        f"""f (float[4,2] x, float[3] b) => (float[4,3] y) <{W}, float y_beta = {{0.5}}>
        {{ y_product = Gemm (x, w)   y_bias = Mul (b, y_beta)   y = Add (y_product, y_bias) }}""",
    )


def test_a_bias_times_zero_is_none() -> None:
    assert_rewritten(
        SplitGemm(),
        gemm("beta = 0.0", ", float[3] b = {1, 2, 3}"),
        f"f (float[4,2] x) => (float[4,3] y) <{W}> {{ y = Gemm (x, w) }}",
    )


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_weight_on_the_left(trans_a: int, trans_b: int, *, has_bias: bool) -> None:
    w = "float[3,2] w" if trans_a else "float[2,3] w"
    x = "float[4,3] x" if trans_b else "float[3,4] x"
    bias = ", float[2,1] b = {1, 2}" if has_bias else ""
    operands = "w, x, b" if has_bias else "w, x"
    text = f"""f ({x}) => (float[2,4] y) <{w} = {{1, 2, 3, 4, 5, 6}}{bias}>
    {{ y = Gemm <transA = {trans_a}, transB = {trans_b}, alpha = 2.0> ({operands}) }}"""
    model = parse(text)
    assert SplitGemm()(model).modified
    assert "Gemm" not in [n.op_type for n in model.graph]
    assert_equal_outputs(parse(text), model)


def test_one_weight_with_two_factors() -> None:
    text = f"""f (float[4,2] x) => (float[4,3] y, float[4,3] z) <{W}>
    {{ y = Gemm <alpha = 2.0> (x, w)   z = Gemm <alpha = 4.0> (x, w) }}"""
    model = parse(text)
    assert SplitGemm()(model).modified
    assert_equal_outputs(parse(text), model)


def test_an_inner_value_keeps_its_name() -> None:
    text = f"""f (float[2,4] x, float[4,3] b) => (float[4,3] z) <{W}>
    {{ y = Gemm <transA = 1> (x, w, b)   z = Relu (y) }}"""
    model = parse(text)
    assert SplitGemm()(model).modified
    assert model.graph[-1].inputs[0].name == "y"
    assert_equal_outputs(parse(text), model)


def test_a_wrong_weight_is_seen() -> None:
    before = parse(gemm("alpha = 2.0"))
    after = before.clone()
    SplitGemm()(after)
    after.graph.initializers["w_scaled"].const_value.numpy()[0, 0] += 1
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (gemm("transB = 0"), None),
        (gemm("alpha = 1.0, beta = 1.0", ", float[3] b = {1, 2, 3}"), None),
        (
            "f (float[4,2] x, float[2,3] w) => (float[4,3] y) { y = Gemm <alpha = 2.0> (x, w) }",
            "its weight is not constant",
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(SplitGemm(), text, reason)
