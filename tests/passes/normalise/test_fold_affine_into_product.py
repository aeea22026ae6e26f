# SPDX-License-Identifier: Apache-2.0
"""Products and sums by output go into the weight and the bias; powers of two keep this exact."""

import numpy as np
import pytest

from qcompile.passes.normalise.fold_affine_into_product import FoldAffineIntoProduct
from tests.passes.graphs import (
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    feeds,
    parse,
    run,
)

CONV = "float[2,1,1,1] w = {1, -2}"
MATMUL = "float[3,2] w = {1, 4, 2, 5, 3, 6}"
NK = "float[2,3] w = {1, 2, 3, 4, 5, 6}"


def conv(text: str, constants: str) -> str:
    return f"""f (float[1,1,3,3] x) => (float[1,2,3,3] y) <{CONV}, {constants}>
    {{ c = Conv (x, w)   {text} }}"""


def matmul(text: str, constants: str, output: str = "float[4,2] y") -> str:
    return f"""f (float[4,3] x) => ({output}) <{MATMUL}, {constants}>
    {{ c = MatMul (x, w)   {text} }}"""


def folded(text: str) -> list[str]:
    """The ops left; outputs stay equal."""
    model = parse(text)
    assert FoldAffineIntoProduct()(model).modified
    assert model.graph[-1].outputs[0].name == "y"
    assert_equal_outputs(parse(text), model)
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("shape", ["", "[1]", "[2,1,1]", "[1,2,1,1]"])
def test_conv(op: str, shape: str) -> None:
    numbers = "{2, -4}" if "2" in shape else "{2}"
    assert folded(conv(f"y = {op} (c, s)", f"float{shape} s = {numbers}")) == ["Conv"]


@pytest.mark.parametrize(("group", "factors"), [(1, "2, 4"), (2, "2, 4, 8, 16")])
def test_a_transposed_convolution(group: int, factors: str) -> None:
    n = 2 * group
    text = f"""f (float[1,2,3,3] x) => (float[1,{n},3,3] y)
    <float[2,2,1,1] w = {{1, 2, 3, 4}}, float[{n},1,1] s = {{{factors}}}>
    {{ c = ConvTranspose <group = {group}> (x, w)   y = Mul (c, s) }}"""
    assert folded(text) == ["ConvTranspose"]


def test_a_chain_of_paddle() -> None:
    constants = "float[1,2,1,1] s = {2, 4}, float[1,2,1,1] b = {1, -1}"
    text = conv("d = Add (c, b)   e = Mul (s, d)   y = Sub (e, b)", constants)
    assert folded(text) == ["Conv"]


def test_gemm() -> None:
    text = f"""f (float[4,3] x) => (float[4,2] y)
    <{NK}, float[2] b = {{1, 2}}, float[1,2] s = {{2, 4}}>
    {{ c = Gemm <transB = 1> (x, w, b)   d = Mul (c, s)   y = Add (d, b) }}"""
    assert folded(text) == ["Gemm"]


@pytest.mark.parametrize("op", ["Mul", "Div"])
@pytest.mark.parametrize("shape", ["", "[2]", "[1,2]"])
def test_matmul_by_a_factor(op: str, shape: str) -> None:
    numbers = "{2, -4}" if "2" in shape else "{2}"
    assert folded(matmul(f"y = {op} (c, s)", f"float{shape} s = {numbers}")) == ["MatMul"]


def test_the_bias_of_matmul_is_a_vector_on_its_right() -> None:
    assert_rewritten(
        FoldAffineIntoProduct(),
        matmul("d = Sub (c, s)   y = Relu (d)", "float[1,2] s = {1, 2}"),
        f"""f (float[4,3] x) => (float[4,2] y) <{MATMUL}, float[2] c_bias = {{-1, -2}}>
        {{ c = MatMul (x, w)   d = Add (c, c_bias)   y = Relu (d) }}""",
    )


def test_the_scale_of_attention_goes_into_weight_and_bias() -> None:
    constants = "float[2] b = {1, 2}, float s = {0.5}"
    assert_rewritten(
        FoldAffineIntoProduct(),
        matmul("d = Add (b, c)   y = Mul (d, s)", constants),
        """f (float[4,3] x) => (float[4,2] y)
        <float[3,2] w_folded = {0.5, 2, 1, 2.5, 1.5, 3}, float[2] c_bias = {0.5, 1}>
        { c = MatMul (x, w_folded)   y = Add (c_bias, c) }""",
    )


def test_a_weight_behind_its_transpose() -> None:
    text = f"""f (float[4,3] x) => (float[4,2] y) <{NK}, float[2] s = {{2, 4}}>
    {{ t = Transpose <perm = [1, 0]> (w)   c = MatMul (x, t)   y = Mul (c, s) }}"""
    assert folded(text) == ["Transpose", "MatMul"]


def test_a_wrong_weight_is_seen() -> None:
    before = parse(conv("y = Mul (c, s)", "float s = {2}"))
    after = before.clone()
    FoldAffineIntoProduct()(after)
    after.graph.initializers["w_folded"].const_value.numpy()[0] += 1
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv("y = Sub (s, c)", "float s = {2}"), "Sub of a constant by the product"),
        (conv("y = Div (s, c)", "float s = {2}"), "Div of a constant by the product"),
        (conv("y = Div (c, s)", "float[2,1,1] s = {2, 0}"), "it divides by 0"),
        (conv("y = Add (c, s)", "float[3] s = {1, 2, 3}"),)
        + ("its constant is not one number or one an output",),
        (conv("d = Mul (c, s)   y = Add (d, c)", "float s = {2}"), "c has another reader"),
        (matmul("y = Mul (c, s)", "float[4,1] s = {1, 2, 3, 4}"),)
        + ("its constant is not one number or one an output",),
        (matmul("y = Mul (c, s)", "float[1,1,2] s = {1, 2}", "float[1,4,2] y"),)
        + ("its constant is not one number or one an output",),
        (matmul("y = Add (c, s)", "float[2] s = {1, 2}"), None),
        (matmul("y = Add (c, s)", "float[1,2] s = {0, -10000}"), "its constant is a mask"),
        (
            matmul(
                "d = Mul (c, s)   y = MatMul (x, w)", "float s = {2}", "float[4,2] d, float[4,2] y"
            ),
            "w has another reader",
        ),
        (
            f"""f (float[4,3] x, float[2] b) => (float[4,2] y) <{NK}, float s = {{2}}>
            {{ c = Gemm <transB = 1> (x, w, b)   y = Mul (c, s) }}""",
            "the bias b is not constant",
        ),
        (
            f"""f (float[4,3] x) => (float[4,2] y) <{NK}, float[2] b = {{1, 2}}>
            {{ c = Gemm <transB = 1, beta = 0.5> (x, w, b)   y = Add (c, b) }}""",
            "Gemm scales its bias",
        ),
        (
            """f (float[4,3] x, float[3,2] w) => (float[4,2] y) <float s = {2}>
            { c = MatMul (x, w)   y = Mul (c, s) }""",
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldAffineIntoProduct(), text, reason)
