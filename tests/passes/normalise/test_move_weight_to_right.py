# SPDX-License-Identifier: Apache-2.0
"""W · x is (xᵀ · Wᵀ)ᵀ."""

import pytest

from qcompile.passes.normalise.move_weight_to_right import MoveWeightToRight
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

NUMBERS = "{1, 2, 3, 4, 5, 6}"


@pytest.mark.parametrize("w", ["2,3", "1,2,3"])
@pytest.mark.parametrize("lead", ["5,", "1,", "5,2,", "n,"])
def test_leading_dimensions(w: str, lead: str) -> None:
    text = f"""f (float[{lead}3,4] x) => (float[{lead}2,4] y) <float[{w}] w = {NUMBERS}>
    {{ y = MatMul (w, x) }}"""
    model = parse(text)
    assert MoveWeightToRight()(model).modified
    assert [n.op_type for n in model.graph] == ["Transpose", "Transpose", "MatMul", "Transpose"]
    assert model.graph[-1].outputs[0].name == "y"
    assert_equal_outputs(parse(text), model)


def test_a_matrix_of_which_one_dimension_is_one() -> None:
    text = f"""f (float[6,1] x) => (float[1,1] y) <float[1,6] w = {NUMBERS}>
    {{ y = MatMul (w, x) }}"""
    model = parse(text)
    assert MoveWeightToRight()(model).modified
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"f (float[4,2] x) => (float[4,3] y) <float[2,3] w = {NUMBERS}> {{ y = MatMul (x, w) }}",)
        + (None,),
        (
            f"""f (float[4,2] x) => (float[4,3] y) <float[3,2] w = {NUMBERS}>
            {{ t = Transpose <perm = [1, 0]> (w)   y = MatMul (x, t) }}""",
            None,
        ),
        (
            f"f (float[3] x) => (float[2] y) <float[2,3] w = {NUMBERS}> {{ y = MatMul (w, x) }}",
            "one of its operands is a vector",
        ),
        (
            f"f (float[6,2] x) => (float[2] y) <float[6] w = {NUMBERS}> {{ y = MatMul (w, x) }}",
            "one of its operands is a vector",
        ),
        (
            f"""f (float[2,3,2] x) => (float[2,1,2] y) <float[2,1,3] w = {NUMBERS}>
            {{ y = MatMul (w, x) }}""",
            "its weight is a stack of matrices",
        ),
        (
            f"""f (float[3,4] x) => (float[1,2,4] y) <float[1,2,3] w = {NUMBERS}>
            {{ y = MatMul (w, x) }}""",
            "its weight is a stack of matrices",
        ),
        (
            f"""f (float[n,m] x, int64[k] s) => (float z) <float[2,3] w = {NUMBERS}>
            {{ r = Reshape (x, s)   y = MatMul (w, r)   z = ReduceSum <keepdims = 0> (y) }}""",
            "the rank of its right operand is not known",
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(MoveWeightToRight(), text, reason)
