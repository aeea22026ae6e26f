# SPDX-License-Identifier: Apache-2.0
"""A stack of matrices is one weight a matrix."""

import pytest

from qcompile.passes.normalise.split_batched_weight import MOST_PARTS, SplitBatchedWeight
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, assert_rewritten, parse

NUMBERS = "{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}"


@pytest.mark.parametrize("lead", ["1,", "1,1,"])
def test_a_stack_of_one(lead: str) -> None:
    assert_rewritten(
        SplitBatchedWeight(),
        f"""f (float[5,7,4,3] x) => (float[5,7,4,4] y) <float[{lead}3,4] w = {NUMBERS}>
        {{ y = MatMul (x, w) }}""",
        f"""f (float[5,7,4,3] x) => (float[5,7,4,4] y) <float[3,4] w_matrix = {NUMBERS}>
        {{ y = MatMul (x, w_matrix) }}""",
    )


@pytest.mark.parametrize(
    ("x", "w", "y"),
    [
        ("2,5,3", "2,3,2", "2,5,2"),
        ("7,2,5,3", "2,3,2", "7,2,5,2"),
        ("2,1,5,3", "2,1,3,2", "2,1,5,2"),
        ("n,2,5,3", "1,2,3,2", "n,2,5,2"),
        ("3,n,1", "3,1,4", "3,n,4"),
    ],
)
def test_parts(x: str, w: str, y: str) -> None:
    text = f"f (float[{x}] x) => (float[{y}] y) <float[{w}] w = {NUMBERS}> {{ y = MatMul (x, w) }}"
    model = parse(text)
    assert SplitBatchedWeight()(model).modified
    types = [n.op_type for n in model.graph]
    assert types[0] == "Split" and types[-1] == "Concat" and set(types[1:-1]) == {"MatMul"}
    assert_equal_outputs(parse(text), model)


def stack(x: str, w: str, y: str, count: int = 12) -> str:
    numbers = ", ".join(["1"] * count)
    return f"""f (float[{x}] x) => (float[{y}] y) <float[{w}] w = {{{numbers}}}>
    {{ y = MatMul (x, w) }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (stack("5,3", "3,4", "5,4"), None),
        (stack("5,3", "2,3,2", "2,5,2"),)
        + ("the rank of its left operand is not known, or below its weight's",),
        (stack("2,2,5,3", "2,2,3,1", "2,2,5,1"), "its weight is a stack of 2 x 2 matrices"),
        (stack("1,5,3", "2,3,2", "2,5,2"), "dimension 0 of its left operand is not 2"),
        (stack("n,5,3", "2,3,2", "2,5,2"), "dimension 0 of its left operand is not 2"),
        (
            stack("65,1,1", "65,1,1", "65,1,1", MOST_PARTS + 1),
            "its weight is a stack of 65 matrices",
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(SplitBatchedWeight(), text, reason)
