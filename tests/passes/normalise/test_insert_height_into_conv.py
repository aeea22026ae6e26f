# SPDX-License-Identifier: Apache-2.0
"""1-D convolutions and pools are 2-D ones of height 1."""

import pytest

from qcompile.passes.normalise.insert_height_into_conv import InsertHeightIntoConv
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

W = "float[4,2,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6}"


@pytest.mark.parametrize(
    "apply",
    [
        "Conv (x, w)",
        "Conv (x, w, b)",
        "Conv <group = 2, kernel_shape = [3]> (x, w)",
        "Conv <pads = [2, 1], strides = [2]> (x, w)",
        "Conv <dilations = [2], pads = [2, 0]> (x, w, b)",
        "MaxPool <kernel_shape = [3], strides = [2], pads = [1, 1]> (x)",
        "MaxPool <kernel_shape = [2], dilations = [2], ceil_mode = 1> (x)",
        "AveragePool <kernel_shape = [2], strides = [2]> (x)",
        "GlobalMaxPool (x)",
        "GlobalAveragePool (x)",
    ],
)
def test_ops(apply: str) -> None:
    channels = 4 if "group" in apply or "Pool" in apply else 2
    text = f"""f (float[n,{channels},8] x) => (float[n,4,m] y) <{W}, float[4] b = {{1, 2, 3, 4}}>
    {{ y = {apply} }}"""
    model = parse(text)
    assert InsertHeightIntoConv()(model).modified
    assert [n.op_type for n in model.graph] == ["Unsqueeze", apply.split()[0], "Squeeze"]
    assert model.graph[-1].outputs[0].name == "y"
    assert_equal_outputs(parse(text), model)


def test_a_weight_of_two_stays_one() -> None:
    text = f"""f (float[1,2,8] x) => (float[1,4,6] y, float[1,4,6] z) <{W}>
    {{ y = Conv (x, w)   z = Conv (x, w) }}"""
    model = parse(text)
    assert InsertHeightIntoConv()(model).modified
    assert len({n.inputs[1] for n in model.graph if n.op_type == "Conv"}) == 1
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "f (float[1,2,8] x, float[4,2,3] w) => (float[1,4,6] y) { y = Conv (x, w) }",
            "its weight is not constant",
        ),
        (
            """f (float[1,2,8] x) => (float[1,2,7] y, int64[1,2,7] j)
            { y, i = MaxPool <kernel_shape = [2]> (x)   j = Identity (i) }""",
            "its indices are read",
        ),
        (
            """f (float[1,2,8,8] x) => (float[1,2,7,7] y)
            { y = MaxPool <kernel_shape = [2, 2]> (x) }""",
            None,
        ),
        (
            """f (float[1,1,4,4] x) => (float[1,1,4,4] y) <float[1,1,1,1] w = {2}>
            { y = Conv (x, w) }""",
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(InsertHeightIntoConv(), text, reason)
