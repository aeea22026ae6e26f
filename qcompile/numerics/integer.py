# SPDX-License-Identifier: Apache-2.0
"""Operators of integer-only networks on codes, NHWC: no float, no division (N41 … N44)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.conv import Window, accumulate, patches
from qcompile.numerics.requantize import requantize_dyadic


@dataclass(frozen=True)
class Dyadic:
    """The numbers multiplier / 2^exponent: int32 [N], or [1] for all channels (N12, N12)."""

    multiplier: NDArray[np.int32]
    exponent: NDArray[np.int32]

    def apply(self, value: NDArray[np.int64]) -> NDArray[np.int64]:
        """value [..., N], |value| < 2^31, requantized half-up (N12)."""
        return requantize_dyadic(value, self.multiplier, self.exponent)


def convolve(
    x: NDArray, weight: NDArray[np.int8], bias: NDArray[np.int32], window: Window, x_zero_point: int
) -> NDArray[np.int64]:
    """Sums [B, OH, OW, N] of codes x [B, H, W, C] and weight [N, kh, kw, C] (N41)."""
    centred = x.astype(np.int64) - x_zero_point
    flat = weight.reshape(len(weight), -1)
    return accumulate(centred, flat, window, 1) + bias.astype(np.int64)


def to_codes(value: NDArray[np.int64], y_zero_point: int, clip: tuple[int, int]) -> NDArray:
    """`clamp(value + y_zero_point, clip)` as int16, which holds every code of 8 bits (N42)."""
    return np.clip(value + y_zero_point, *clip).astype(np.int16)


def pool_max(x: NDArray[np.int16], window: Window) -> NDArray[np.int16]:
    """Codes [B, H, W, C] to [B, OH, OW, C]; padded taps are left out (N22)."""
    return patches(x, window, pad=np.iinfo(np.int16).min).max(axis=3)


def sum_of_map(x: NDArray, x_zero_point: int) -> NDArray[np.int64]:
    """Codes [B, H, W, C] to the sums [B, 1, 1, C] of all pixels (N44)."""
    return (x.astype(np.int64) - x_zero_point).sum(axis=(1, 2), keepdims=True)
