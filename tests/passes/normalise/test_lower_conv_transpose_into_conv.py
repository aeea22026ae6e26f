# SPDX-License-Identifier: Apache-2.0
"""ConvTranspose is a convolution and DepthToSpace, exactly, on every size of its window."""

import itertools

import numpy as np
import pytest

from qcompile.passes.normalise.lower_conv_transpose_into_conv import (
    LowerConvTransposeIntoConv,
    plan_axis,
)
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, feeds, parse, run


def transposed(
    kernel: list[int],
    attributes: str = "",
    *,
    group: int = 1,
    has_bias: bool = True,
    size: str = "3",
) -> str:
    """4 channels to 2 · group outputs, of ascending weights."""
    rank = len(kernel)
    count = 4 * 2 * int(np.prod(kernel))
    numbers = ", ".join(str(i % 7 - 3) for i in range(count))
    dims, more = ",".join(map(str, kernel)), "," if attributes else ""
    bias = f", float[{2 * group}] b = {{{', '.join(map(str, range(1, 2 * group + 1)))}}}"
    sizes, free = ",".join([size] * rank), ",".join("pqr"[:rank])
    return f"""f (float[2,4,{sizes}] x) => (float[2,{2 * group},{free}] y)
    <float[4,2,{dims}] w = {{{numbers}}}{bias if has_bias else ""}>
    {{ y = ConvTranspose <group = {group}{more}{attributes}> (x, w{", b" if has_bias else ""}) }}"""


def check(text: str) -> list[str]:
    model = parse(text)
    assert LowerConvTransposeIntoConv()(model).modified
    assert model.graph[-1].outputs[0].name == "y"
    assert_equal_outputs(parse(text), model)
    return [n.op_type for n in model.graph]


CASES = [
    (k, s, begin, end, more)
    for k, s, begin, end, more in itertools.product(
        (1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2), (0, 1), (0, 1)
    )
    if more < s and begin + end < k + s * 2 + more
]


@pytest.mark.parametrize(("kernel", "stride", "begin", "end", "more"), CASES)
def test_windows(kernel: int, stride: int, begin: int, end: int, more: int) -> None:
    check(
        transposed(
            [kernel, 3],
            f"strides = [{stride}, {stride}], pads = [{begin}, 1, {end}, 0], "
            f"output_padding = [{more}, 0]",
        )
    )


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (2, 2), (4, 2), (8, 4), (3, 2)])
@pytest.mark.parametrize("pads", [(0, 0), (1, 0), (0, 2)])
def test_one_dimension(kernel: int, stride: int, pads: tuple[int, int]) -> None:
    check(transposed([kernel], f"strides = [{stride}], pads = [{pads[0]}, {pads[1]}]", size="4"))


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("has_bias", [False, True])
def test_groups(group: int, *, has_bias: bool) -> None:
    attributes = "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]"
    types = check(transposed([3, 3], attributes, group=group, has_bias=has_bias))
    assert types == ["Conv", "DepthToSpace"]


def test_stride_one_is_a_convolution_with_the_kernel_turned() -> None:
    assert check(transposed([3, 3])) == ["Conv"]


def test_sizes_may_be_free() -> None:
    check(transposed([4, 4], "strides = [2, 2], pads = [1, 1, 1, 1]", size="n"))


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "more", "width"),
    [(2, 2, (0, 0), 0, 1), (4, 2, (1, 1), 0, 2), (3, 2, (1, 1), 1, 2), (8, 4, (2, 2), 0, 2)],
)
def test_the_window_is_least(
    kernel: int, stride: int, pads: tuple[int, int], more: int, width: int
) -> None:
    assert plan_axis(kernel, stride, pads, more).width == width


def test_a_wrong_tap_is_seen() -> None:
    before = parse(transposed([3, 3], "strides = [2, 2]"))
    after = before.clone()
    LowerConvTransposeIntoConv()(after)
    array = after.graph.initializers["w_phases"].const_value.numpy()
    array[tuple(np.argwhere(array)[0])] += 1
    feed = feeds(before, 0)
    assert not np.array_equal(run(before, feed)[0], run(after, feed)[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (transposed([3, 3], "dilations = [2, 2]"), "it has dilations [2, 2]"),
        (
            transposed([3, 3], "strides = [2, 2], output_shape = [6, 6]"),
            "it has an output_shape",
        ),
        (
            transposed([3, 3], 'strides = [2, 2], auto_pad = "SAME_UPPER"'),
            "it has auto_pad SAME_UPPER",
        ),
        (transposed([3, 3], "strides = [1, 2]"), "it is 2-D with strides [1, 2]"),
        (transposed([2, 2, 2], "strides = [2, 2, 2]"), "it is 3-D with strides [2, 2, 2]"),
        (transposed([3], "strides = [2]", group=2), "it is 1-D with groups"),
        (
            """f (float[1,1,3,3] x, float[1,1,2,2] w) => (float[1,1,p,q] y)
            { y = ConvTranspose (x, w) }""",
            "its weight or bias is not constant",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(LowerConvTransposeIntoConv(), text, reason)
