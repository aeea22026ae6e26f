# SPDX-License-Identifier: Apache-2.0
"""Matrix weights stand as [N, K]."""

import pytest

from qcompile.passes.normalise.move_transpose_out_of_weight import MoveTransposeOutOfWeight
from tests.passes.graphs import assert_left_alone, assert_rewritten

W, TURNED = "float[2,3] w = {1, 2, 3, 4, 5, 6}", "float[3,2] w_nk = {1, 4, 2, 5, 3, 6}"
TURN = "Transpose <perm = [1, 0]>"


@pytest.mark.parametrize("lead", ["", "4,", "2,4,"])
def test_matmul(lead: str) -> None:
    assert_rewritten(
        MoveTransposeOutOfWeight(),
        f"f (float[{lead}2] x) => (float[{lead}3] y) <{W}> {{ y = MatMul (x, w) }}",
        f"""f (float[{lead}2] x) => (float[{lead}3] y) <{TURNED}>
        {{ y_weight = {TURN} (w_nk)   y = MatMul (x, y_weight) }}""",
    )


@pytest.mark.parametrize("bias", ["", ", b"])
def test_gemm(bias: str) -> None:
    constant = ", float[3] b = {1, 2, 3}" if bias else ""
    assert_rewritten(
        MoveTransposeOutOfWeight(),
        f"f (float[4,2] x) => (float[4,3] y) <{W}{constant}> {{ y = Gemm (x, w{bias}) }}",
        f"""f (float[4,2] x) => (float[4,3] y) <{TURNED}{constant}>
        {{ y = Gemm <transB = 1> (x, w_nk{bias}) }}""",
    )


def test_a_weight_used_twice_is_turned_once() -> None:
    assert_rewritten(
        MoveTransposeOutOfWeight(),
        f"""f (float[4,2] x) => (float[4,3] y, float[4,3] z) <{W}>
        {{ y = MatMul (x, w)   z = Gemm (x, w) }}""",
        f"""f (float[4,2] x) => (float[4,3] y, float[4,3] z) <{TURNED}>
        {{ y_weight = {TURN} (w_nk)   y = MatMul (x, y_weight)
           z = Gemm <transB = 1> (x, w_nk) }}""",
    )


def test_other_readers_keep_the_weight() -> None:
    assert_rewritten(
        MoveTransposeOutOfWeight(),
        f"""f (float[4,2] x, int64[1] i) => (float[4,3] y, float[1,3] z) <{W}>
        {{ y = MatMul (x, w)   z = Gather (w, i) }}""",
        f"""f (float[4,2] x, int64[1] i) => (float[4,3] y, float[1,3] z) <{W}, {TURNED}>
        {{ y_weight = {TURN} (w_nk)   y = MatMul (x, y_weight)   z = Gather (w, i) }}""",
        is_runnable=False,
    )


def test_a_constant_that_has_the_name_already_is_another() -> None:
    taken = "float[3,2] w_nk = {0, 0, 0, 0, 0, 0}"
    assert_rewritten(
        MoveTransposeOutOfWeight(),
        f"""f (float[4,2] x) => (float[4,3] y, float[3,2] z) <{W}, {taken}>
        {{ y = MatMul (x, w)   z = Neg (w_nk) }}""",
        f"""f (float[4,2] x) => (float[4,3] y, float[3,2] z)
        <{TURNED.replace("w_nk", "w_nk_1")}, {taken}>
        {{ y_weight = {TURN} (w_nk_1)   y = MatMul (x, y_weight)   z = Neg (w_nk) }}""",
    )


@pytest.mark.parametrize(
    "text",
    [
        "f (float[4,2] x, float[2,3] w) => (float[4,3] y) { y = MatMul (x, w) }",
        f"f (float[4,2] x, {W.split(' =')[0]}) => (float[4,3] y) <{W}> {{ y = MatMul (x, w) }}",
        "f (float[4,2] x) => (float[4] y) <float[2] w = {1, 2}> { y = MatMul (x, w) }",
        "f (float[4,2] x) => (float[1,4,1] y) <float[1,2,1] w = {1, 2}> { y = MatMul (x, w) }",
        f"f (float[3,4] x) => (float[2,4] y) <{W}> {{ y = MatMul (w, x) }}",
        f"f (float[4,3] x) => (float[4,2] y) <{W}> {{ y = Gemm <transB = 1> (x, w) }}",
    ],
    ids=["an input", "an input with a default", "a vector", "a stack", "on the left", "transB"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(MoveTransposeOutOfWeight(), text)
