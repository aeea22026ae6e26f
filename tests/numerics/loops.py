# SPDX-License-Identifier: Apache-2.0
"""Independent references: plain loops over Python numbers, written from docs/numerics.md alone."""

import math

import numpy as np
from numpy.typing import NDArray


def round_half_even(value: float) -> int:
    """rint of a number below 2^53."""
    floor = math.floor(value)
    gap = value - floor
    return floor + (gap > 0.5 or (gap == 0.5 and floor % 2 == 1))


def requantize(
    acc: int, bias: int, multiplier: np.float32, y_zero_point: int, y_min: int, y_max: int
) -> int:
    """N11 for one sum."""
    total = min(max(acc + bias, -(2**31)), 2**31 - 1)
    code = round_half_even(float(np.float32(np.float32(total) * multiplier))) + y_zero_point
    return min(max(code, y_min), y_max)


def conv(
    x: NDArray,
    weight: NDArray,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilations: tuple[int, int],
    group: int,
) -> NDArray[np.int64]:
    """Sums [B, OH, OW, N] of codes [B, H, W, C] and values [N, kh·kw·C/group]; borders are 0."""
    batch, height, width, channels = x.shape
    oh = (height + pads[0] + pads[2] - dilations[0] * (kernel[0] - 1) - 1) // strides[0] + 1
    ow = (width + pads[1] + pads[3] - dilations[1] * (kernel[1] - 1) - 1) // strides[1] + 1
    n, in_group = len(weight), channels // group
    out = np.zeros((batch, oh, ow, n), np.int64)
    for b, i, j, o in np.ndindex(batch, oh, ow, n):
        total = 0
        for ki, kj, c in np.ndindex(*kernel, in_group):
            row = i * strides[0] + ki * dilations[0] - pads[0]
            column = j * strides[1] + kj * dilations[1] - pads[1]
            if 0 <= row < height and 0 <= column < width:
                channel = (o // (n // group)) * in_group + c
                w = int(weight[o, (ki * kernel[1] + kj) * in_group + c])
                total += int(x[b, row, column, channel]) * w
        out[b, i, j, o] = total
    return out


def windows(
    x: NDArray, kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int]
) -> dict[tuple[int, ...], list[int]]:
    """(b, i, j, c) → the codes inside the window, padded taps left out."""
    batch, height, width, channels = x.shape
    oh = (height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    ow = (width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    found = {}
    for b, i, j, c in np.ndindex(batch, oh, ow, channels):
        top, left = i * strides[0] - pads[0], j * strides[1] - pads[1]
        rows = range(max(top, 0), min(top + kernel[0], height))
        columns = range(max(left, 0), min(left + kernel[1], width))
        found[b, i, j, c] = [int(x[b, r, s, c]) for r in rows for s in columns]
    return found
