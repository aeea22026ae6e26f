# SPDX-License-Identifier: Apache-2.0
"""A convolution before DepthToSpace gives the channels of a pixel together."""

import numpy as np
import pytest

from qcompile.passes.normalise.channel_statistics import keep, statistics_of
from qcompile.passes.normalise.move_pixel_order_into_conv import MovePixelOrderIntoConv
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse

CRD = 'DepthToSpace <blocksize = 2, mode = "CRD">'
W = "float[8,1,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}"
HEAD = "f (float[1,1,2,2] x) => (float[1,2,4,4] y)"


def test_weight_and_bias() -> None:
    assert_rewritten(
        MovePixelOrderIntoConv(),
        f"""{HEAD} <{W}, float[8] b = {{1, 2, 3, 4, 5, 6, 7, 8}}>
        {{ c = Conv (x, w, b)   y = {CRD} (c) }}""",
        f"""{HEAD} <float[8,1,1,1] w_pixels_2 = {{1, 5, 2, 6, 3, 7, 4, 8}},
        float[8] b_pixels_2 = {{1, 5, 2, 6, 3, 7, 4, 8}}>
        {{ c_pixels = Conv (x, w_pixels_2, b_pixels_2)
          y = DepthToSpace <blocksize = 2, mode = "DCR"> (c_pixels) }}""",
    )


def test_statistics_of_channels_follow() -> None:
    model = parse(f"{HEAD} <{W}> {{ c = Conv (x, w)   y = {CRD} (c) }}")
    out = model.graph[0].outputs[0]
    keep(out, np.arange(8.0), np.arange(8.0) + 10)
    assert MovePixelOrderIntoConv()(model).modified
    found = statistics_of(out)
    assert found is not None
    assert found.mean.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert found.deviation.tolist() == [10, 14, 11, 15, 12, 16, 13, 17]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{HEAD} <{W}> {{ c = Conv (x, w)   y = {CRD.replace('CRD', 'DCR')} (c) }}", None),
        (f"f (float[1,8,2,2] x) => (float[1,2,4,4] y) {{ y = {CRD} (x) }}", None),
        (
            f"""f (float[1,2,2,2] x) => (float[1,2,4,4] y) <{W}>
            {{ c = Conv <group = 2> (x, w)   y = {CRD} (c) }}""",
            "its convolution has groups",
        ),
        (
            f"""f (float[1,1,2,2] x, float[8] b) => (float[1,2,4,4] y) <{W}>
            {{ c = Conv (x, w, b)   y = {CRD} (c) }}""",
            "its convolution's weight or bias is not constant",
        ),
        (
            f"""f (float[1,1,2,2] x) => (float[1,2,4,4] y, float[1,8,2,2] z) <{W}>
            {{ c = Conv (x, w)   y = {CRD} (c)   z = Neg (c) }}""",
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(MovePixelOrderIntoConv(), text, reason)
