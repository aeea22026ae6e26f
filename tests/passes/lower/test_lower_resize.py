# SPDX-License-Identifier: Apache-2.0
"""A linear Resize of codes becomes QResize."""

import pytest

from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_resize import LowerResize
from tests.passes.graphs import assert_left_alone
from tests.passes.stages import assert_lowered, ops, run_passes, staged, with_weights

CONSTANTS = (
    "<float[4] twice = {1, 1, 2, 2}, float[4] odd = {1, 1, 0.5, 1.5}, "
    "int64[4] sizes = {2, 4, 5, 9}, "
    "float[4] channels = {1, 2, 2, 2}, float s = {0.5}, uint8 p = {8}>"
)
MODES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@pytest.mark.parametrize("more", [", , twice", ", , odd", ", , , sizes"])
@pytest.mark.parametrize("mode", MODES)
def test_between_convs(mode: str, more: str) -> None:
    text = f"""f (float[2,4,6,6] x, float w, float u) => (float[2,4,h,k] y) {CONSTANTS}
    {{ c = Conv (x, w)
       r = Resize <mode = "linear", coordinate_transformation_mode = "{mode}"> (c{more})
       y = Conv (r, u) }}"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1)))
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert ops(lowered) == [
        *("QuantizeLinear", "Transpose", "QConv", "QResize", "QConv", "DequantizeLinear"),
        "Transpose",
    ]
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


def left(body: str, output: str = "uint8[n,k,h,v] y") -> str:
    """A graph on codes."""
    back = "x = DequantizeLinear (a, s, p)"
    return f"f (uint8[b,4,6,6] a) => ({output}) {CONSTANTS} {{ {back}   {body} }}"


FORTH = "y = QuantizeLinear (r, s, p)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            left('y = Resize <mode = "linear"> (x, , twice)', "float[n,k,h,v] y"),
            "its output does not become codes",
        ),
        (
            left(f'r = Resize <mode = "linear"> (x, , channels)   {FORTH}'),
            "Resize: it scales batch or channels",
        ),
        (
            left(f'r = Resize <mode = "linear"> (x, , , sizes)   {FORTH}'),
            "Resize: its sizes fix the batch",
        ),
        (
            left(f'r = Resize <mode = "linear", exclude_outside = 1> (x, , twice)   {FORTH}'),
            "Resize: exclude_outside",
        ),
        (left(f'r = Resize <mode = "nearest"> (x, , twice)   {FORTH}'), None),
        (left(f'r = Resize <mode = "cubic"> (x, , twice)   {FORTH}'), None),
    ],
    ids=["float output", "channels", "batch", "outside", "nearest", "cubic"],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(LowerResize(), text, reason)
