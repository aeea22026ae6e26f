# SPDX-License-Identifier: Apache-2.0
"""QAdd and QPool: N20, N21, N22, against loops."""

import math

import numpy as np
import pytest

from qcompile.numerics.add import qadd
from qcompile.numerics.conv import Window
from qcompile.numerics.pool import qpool_average, qpool_max
from tests.numerics import loops

WINDOWS = {
    "2x2": Window((2, 2), (2, 2)),
    "3x3 padded": Window((3, 3), (2, 2), (1, 1, 1, 1)),
    "uneven": Window((2, 3), (1, 2), (1, 0, 0, 2)),
    "whole map": Window((5, 6)),
    "1x1": Window((1, 1)),
}
EACH = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)


def test_add_by_loops() -> None:  # N20
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 1, 50)).astype(np.uint8)
    b = rng.integers(0, 256, (4, 1)).astype(np.uint8)
    p, q = np.float32(0.7312), np.float32(0.4499)
    codes = qadd(a, b, float(p), float(q), 120, 3, 30, 30, 240)
    assert codes.shape == (3, 4, 50)
    for i, j, k in np.ndindex(codes.shape):
        left = np.float32(int(a[i, 0, k]) - 120) * p
        right = np.float32(int(b[j, 0]) - 3) * q
        code = loops.round_half_even(float(np.float32(left + right))) + 30
        assert codes[i, j, k] == min(max(code, 30), 240)


def test_add_rounds_both_products() -> None:  # N20
    # f32(3 · fl(1/3)) is 1, and 1 − 0.5 is a tie that goes to 0. The exact sum is above 0.5.
    third = float(np.float32(1) / np.float32(3))
    assert 3 * third > 1
    assert qadd(np.uint8([3]), np.uint8([1]), third, -0.5, 0, 0, 0).tolist() == [0]


@pytest.mark.parametrize("count_include_pad", [False, True])
@EACH
def test_average_by_loops(window: Window, count_include_pad: bool) -> None:  # N21
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    multiplier = np.float32(0.83)
    codes = qpool_average(
        x, window, float(multiplier), 117, 60, 2, 250, count_include_pad=count_include_pad
    )
    found = loops.windows(x, window.kernel, window.strides, window.pads)
    assert codes.size == len(found)
    for at, taps in found.items():
        count = window.kernel[0] * window.kernel[1] if count_include_pad else len(taps)
        each = np.float32(multiplier / np.float32(count))
        total = np.float32(sum(taps) - 117 * len(taps))
        code = loops.round_half_even(float(np.float32(total * each))) + 60
        assert codes[at] == min(max(code, 2), 250)


def test_max_of_padding_alone() -> None:  # N22
    x = np.full((1, 1, 2, 3), 200, np.uint8)
    window = Window((2, 1), (1, 1), (1, 0, 1, 0), (2, 1))  # reads rows −1 and 1 of one row
    assert qpool_max(x, window).tolist() == np.zeros((1, 1, 2, 3), np.uint8).tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("is_ceil", [False, True])
def test_a_window_larger_than_the_map(size: int, is_ceil: bool) -> None:  # N22
    """ONNX: floor or ceil of (size + pads − kernel) / stride + 1, and never below 0."""
    x = np.arange(size, dtype=np.uint8).reshape(1, size, 1, 1)
    found = qpool_max(x, Window((4, 1), (2, 1), is_ceil=is_ceil)).ravel().tolist()
    step = (size - 4) / 2
    count = max((math.ceil(step) if is_ceil else math.floor(step)) + 1, 0)
    assert found == [size - 1] * count
    assert is_ceil or count == (size == 4)


@EACH
def test_max_by_loops(window: Window) -> None:  # N22
    rng = np.random.default_rng(2)
    x = rng.integers(0, 4, (2, 5, 6, 3)).astype(np.uint8)
    codes = qpool_max(x, window)
    found = loops.windows(x, window.kernel, window.strides, window.pads)
    assert codes.size == len(found)
    assert all(codes[at] == max(taps) for at, taps in found.items())


def test_average_ties_go_to_even() -> None:  # N21
    x = np.uint8([[[[0], [1]]], [[[1], [2]]]])  # two maps of 1x2: 0.5 and 1.5
    assert qpool_average(x, Window((1, 2)), 1.0, 0, 0).ravel().tolist() == [0, 2]
