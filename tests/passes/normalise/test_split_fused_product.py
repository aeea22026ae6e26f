# SPDX-License-Identifier: Apache-2.0
"""FusedConv, FusedGemm and FusedMatMul are their products and what they had swallowed."""

import numpy as np
import pytest

from qcompile.passes.normalise.split_fused_product import SplitFusedProduct
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, feeds, parse, run

KERNEL = "float[1,1,1,1] w = {2}, float[1] b = {1}"
MATRIX = "float[2,3] w = {1, 2, 3, 4, 5, 6}, float[3] b = {1, 2, 3}"


def conv(attributes: str, operands: str = "x, w, b", more: str = "") -> str:
    return f"""f (float[1,1,3,3] x{more}) => (float[1,1,3,3] y) <{KERNEL}>
    {{ y = com.microsoft.FusedConv <{attributes}> ({operands}) }}"""


def split(text: str) -> list[str]:
    model = parse(text)
    assert SplitFusedProduct()(model).modified
    assert model.graph[-1].outputs[0].name == "y"
    assert_equal_outputs(parse(text), model)
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Relu", ""),
        ("LeakyRelu", "0.25"),
        ("Clip", "-1.0, 6.0"),
        ("HardSigmoid", "0.25, 0.5"),
    ],
)
def test_conv_with_an_activation(name: str, parameters: str) -> None:
    more = f", activation_params = [{parameters}]" if parameters else ""
    assert split(conv(f'activation = "{name}"{more}')) == ["Conv", name]


def test_conv_with_a_sum() -> None:
    text = conv('activation = "Relu", group = 1', "x, w, b, z", ", float[1,1,3,3] z")
    assert split(text) == ["Conv", "Add", "Relu"]


def test_gemm() -> None:
    types = split(
        f"""f (float[4,2] x) => (float[4,3] y) <{MATRIX}>
        {{ y = com.microsoft.FusedGemm
           <activation = "LeakyRelu", activation_alpha = 0.5, alpha = 2.0, beta = 0.5>
           (x, w, b) }}"""
    )
    assert types == ["Gemm", "LeakyRelu"]


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("lead", ["", "2,"])
def test_matmul(trans_a: int, trans_b: int, lead: str) -> None:
    x = f"{lead}2,4" if trans_a else f"{lead}4,2"
    w = "3,2" if trans_b else "2,3"
    types = split(
        f"""f (float[{x}] x) => (float[{lead}4,3] y) <float[{w}] w = {{1, 2, 3, 4, 5, 6}}>
        {{ y = com.microsoft.FusedMatMul
           <transA = {trans_a}, transB = {trans_b}, alpha = 0.5> (x, w) }}"""
    )
    assert types == ["Transpose"] * (trans_a + trans_b) + ["MatMul"]


def test_a_wrong_factor_is_seen() -> None:
    text = f"""f (float[4,2] x) => (float[4,3] y) <{MATRIX}>
    {{ y = com.microsoft.FusedMatMul <alpha = 0.5> (x, w) }}"""
    before, after = parse(text), parse(text)
    SplitFusedProduct()(after)
    after.graph.initializers["w_scaled"].const_value.numpy()[0, 0] += 1
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv('activation = "Gelu"'), "its activation is Gelu"),
        (
            """f (float[4,2] x, float[2,3] w) => (float[4,3] y)
            { y = com.microsoft.FusedMatMul <alpha = 0.5> (x, w) }""",
            "no operand is constant",
        ),
        (
            f"""f (float[2,4,2] x) => (float[4,2,3] y) <{MATRIX}>
            {{ y = com.microsoft.FusedMatMul <transBatchA = 1> (x, w) }}""",
            "its batch dimensions are turned",
        ),
        (
            f"""f (float[2] x) => (float[3] y) <{MATRIX}>
            {{ y = com.microsoft.FusedMatMul <alpha = 0.5> (x, w) }}""",
            "an operand is a vector, or its rank is not known",
        ),
        ("f (float[2] x) => (float[2] y) { y = com.microsoft.QuickGelu (x) }", None),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(SplitFusedProduct(), text, reason)
