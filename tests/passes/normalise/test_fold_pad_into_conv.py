# SPDX-License-Identifier: Apache-2.0
"""Zeros that Pad adds are the convolution's own pads."""

import pytest

from qcompile.passes.normalise.fold_pad_into_conv import FoldPadIntoConv, pads_of
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse

W = "float[1,2,2,2] w = {1, 2, 3, 4, 5, 6, 7, 8}"
PADS = "int64[8] p = {0, 0, 1, 2, 0, 0, 0, 3}"


def padded(constants: str, pad: str = "Pad (x, p)", conv: str = "Conv") -> str:
    return f"""f (float[1,2,4,4] x) => (float[1,1,h,v] y) <{W}, {constants}>
    {{ a = {pad}   y = {conv} (a, w) }}"""


@pytest.mark.parametrize("own", ["", "pads = [1, 0, 2, 1]"])
@pytest.mark.parametrize("value", ["", ", float v = {0}"])
def test_pads_add_up(own: str, value: str) -> None:
    total = [2, 2, 2, 4] if own else [1, 2, 0, 3]
    assert_rewritten(
        FoldPadIntoConv(),
        padded(
            PADS + value,
            "Pad (x, p, v)" if value else "Pad (x, p)",
            f"Conv <{own}>" if own else "Conv",
        ),
        f"""f (float[1,2,4,4] x) => (float[1,1,h,v] y) <{W}>
        {{ y = Conv <pads = {total}> (x, w) }}""",
    )


def test_one_dimension() -> None:
    assert_rewritten(
        FoldPadIntoConv(),
        """f (float[1,1,4] x) => (float[1,1,n] y)
        <float[1,1,2] w = {1, 2}, int64[6] p = {0, 0, 2, 0, 0, 0}>
        { a = Pad (x, p)   y = Conv (a, w) }""",
        """f (float[1,1,4] x) => (float[1,1,n] y) <float[1,1,2] w = {1, 2}>
        { y = Conv <pads = [2, 0]> (x, w) }""",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (padded(PADS, 'Pad <mode = "reflect"> (x, p)'), "it pads with reflect"),
        (padded(f"{PADS}, float v = {{1}}", "Pad (x, p, v)"),)
        + ("it pads with something other than 0",),
        (padded("int64[8] p = {0, 0, -1, 0, 0, 0, 0, 0}"), "it takes away from the input"),
        (padded("int64[8] p = {1, 0, 0, 0, 0, 0, 0, 0}").replace("[1,1,h,v]", "[2,1,h,v]"),)
        + ("it pads the batch or the channels",),
        (padded("int64[8] p = {0, 0, 0, 0, 0, 1, 0, 0}").replace("[1,2,4,4]", "[1,1,4,4]"),)
        + ("it pads the batch or the channels",),
        (padded(PADS, conv='Conv <auto_pad = "SAME_UPPER">'),)
        + ("its convolution has auto_pad SAME_UPPER",),
        (
            padded(PADS).replace("y) <", "y, float[1,2,h,v] a) <"),
            "a has another reader",
        ),
        (
            f"""f (float[1,2,4,4] x, int64[8] p) => (float[1,1,h,v] y) <{W}>
            {{ a = Pad (x, p)   y = Conv (a, w) }}""",
            "its pads are not known",
        ),
        (f"f (float[1,2,4,4] x) => (float[1,1,3,3] y) <{W}> {{ y = Conv (x, w) }}", None),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldPadIntoConv(), text, reason)


def test_axes_of_a_newer_opset() -> None:
    """From opset 18 on Pad may name its axes."""
    model = parse(padded("int64[2] p = {1, 2}, int64[1] i = {-1}", "Pad (x, p, , i)"))
    model.graph[0].outputs[0].shape = model.graph.inputs[0].shape
    assert pads_of(model.graph[0]) == [0, 0, 0, 1, 0, 0, 0, 2]
