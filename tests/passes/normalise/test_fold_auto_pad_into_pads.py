# SPDX-License-Identifier: Apache-2.0
"""auto_pad becomes pads, as ONNX Runtime computes them."""

import pytest

from qcompile.passes.normalise.fold_auto_pad_into_pads import FoldAutoPadIntoPads
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse


def conv(mode: str, size: str, kernel: int, stride: int = 1, dilation: int = 1) -> str:
    """A square convolution of ascending weights."""
    numbers = ", ".join(str(i) for i in range(1, kernel * kernel + 1))
    return f"""f (float[1,1,{size},{size}] x) => (float[1,1,p,q] y)
    <float[1,1,{kernel},{kernel}] w = {{{numbers}}}>
    {{ y = Conv <auto_pad = "{mode}", strides = [{stride}, {stride}],
         dilations = [{dilation}, {dilation}]> (x, w) }}"""


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv(mode: str, size: int, kernel: int, stride: int) -> None:
    text = conv(mode, str(size), kernel, stride)
    model = parse(text)
    assert FoldAutoPadIntoPads()(model).modified
    assert "auto_pad" not in model.graph[0].attributes
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize("stride", [1, 2])
def test_dilations_are_those_of_a_wider_kernel(stride: int) -> None:
    """ONNX Runtime runs no SAME convolution that is dilated, so there is nothing to compare."""
    model, wide = (
        parse(conv("SAME_LOWER", "9", *sizes)) for sizes in ((3, stride, 2), (5, stride))
    )
    for each in (model, wide):
        assert FoldAutoPadIntoPads()(each).modified
    assert model.graph[0].attributes["pads"] == wide.graph[0].attributes["pads"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_stride_one_needs_no_size(mode: str) -> None:
    text = conv(mode, "n", 4)
    model = parse(text)
    assert FoldAutoPadIntoPads()(model).modified
    assert sum(model.graph[0].attributes["pads"].value) == 2 * 3
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool <count_include_pad = 1", "AveragePool"])
def test_pools(mode: str, op: str) -> None:
    # A window of 2 divides exactly, so averages of integers do not round.
    op = op if "<" in op else f"{op} <"
    comma = "" if op.endswith("<") else ", "
    text = f"""f (float[1,2,5] x) => (float[1,2,p] y)
    {{ y = {op}{comma}auto_pad = "{mode}", kernel_shape = [2], strides = [2]> (x) }}"""
    model = parse(text)
    assert FoldAutoPadIntoPads()(model).modified
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (conv("NOTSET", "5", 3), None),
        (conv("SAME_UPPER", "n", 3, 2), "SAME_UPPER depends on the size n, which is not known"),
        (
            """f (float[1,1,5,5] x, float[1,1,k,k] w) => (float[1,1,5,5] y)
            { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }""",
            "the size of its kernel is not known",
        ),
        (
            """f (float[1,2,5] x) => (float[1,2,3] y)
            { y = MaxPool <auto_pad = "VALID", kernel_shape = [2], ceil_mode = 1> (x) }""",
            "VALID with ceil_mode",
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldAutoPadIntoPads(), text, reason)
