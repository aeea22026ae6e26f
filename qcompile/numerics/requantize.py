# SPDX-License-Identifier: Apache-2.0
"""Requantization of exact sums: by float32 multipliers (N11, N16) or by dyadic ones (N12, N17).

A multiplier is float32 [N], or int32 [2, N], m then e (dyadic.py): its type decides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompile.numerics.dyadic import INT32, shift_half_up


@dataclass(frozen=True)
class Dyadic:
    """The numbers multiplier / 2^exponent: int32 [N], or [1] for all channels (N12)."""

    multiplier: NDArray[np.int32]
    exponent: NDArray[np.int32]


def saturate_int32(value: NDArray[np.int64]) -> NDArray[np.int32]:
    """int64 to int32, saturating."""
    return np.clip(value, -(2**31), 2**31 - 1).astype(np.int32)


def multiplier(x_scale: ArrayLike, w_scale: ArrayLike, y_scale: ArrayLike) -> NDArray[np.float32]:
    """`x_scale · w_scale / y_scale`, the quotient in f64 (N11)."""
    x, w, y = (np.asarray(s, np.float64) for s in (x_scale, w_scale, y_scale))
    return (x * w / y).astype(np.float32)


def requantize(
    acc: NDArray[np.int64],
    bias: ArrayLike,
    multiplier: ArrayLike,
    y_zero_point: int,
    y_min: int,
    y_max: int,
) -> NDArray[np.uint8]:
    """`clamp(rint(f32(acc + bias) · multiplier) + y_zero_point)` (N11), or N12.

    acc int64 [..., N]; bias int32 and multiplier float32 [N] or scalars, or a dyadic multiplier.
    """
    total = saturate_int32(acc + np.asarray(bias, np.int64))
    if is_dyadic(multiplier):
        m, e = np.asarray(multiplier)
        return requantize_to_codes(total, m, e, y_zero_point, y_min, y_max).astype(np.uint8)
    rounded = np.rint(total.astype(np.float32) * np.asarray(multiplier, np.float32))
    return np.clip(rounded.astype(np.float64) + y_zero_point, y_min, y_max).astype(np.uint8)


def is_dyadic(multiplier: ArrayLike) -> bool:
    """Whether the multiplier is (m, e) and not a float."""
    return np.asarray(multiplier).dtype == np.int32


def scale_sum(
    acc: NDArray[np.int64], bias: ArrayLike, multiplier: ArrayLike, clip: tuple[float, float]
) -> NDArray[np.float32]:
    """`clip(f32(acc + bias) · multiplier)` (N16), float32 of acc's shape.

    acc int64 [..., N]; bias int32 and multiplier float32 [N] or scalars.

    >>> scale_sum(np.array([3, -3]), 1, 0.5, (0.0, np.inf)).tolist()
    [2.0, 0.0]
    """
    total = saturate_int32(acc + np.asarray(bias, np.int64)).astype(np.float32)
    return np.clip(total * np.asarray(multiplier, np.float32), *clip).astype(np.float32)


def requantize_dyadic(
    acc: NDArray, multiplier: ArrayLike, exponent: ArrayLike
) -> NDArray[np.int64]:
    """`(acc · m + 2^(e−1)) >> e`, half-up (N12); |acc| ≤ 2^31, 0 ≤ m < 2^31, 1 ≤ e ≤ 62.

    >>> requantize_dyadic(np.array([3, -3, 5]), 1 << 30, 31).tolist()
    [2, -1, 3]
    """
    return shift_half_up(acc.astype(np.int64) * np.asarray(multiplier, np.int64), exponent)


def requantize_to_codes(
    acc: NDArray,
    multiplier: ArrayLike,
    exponent: ArrayLike,
    y_zero_point: int,
    y_min: int,
    y_max: int,
) -> NDArray[np.int64]:
    """`clamp(((acc · m + 2^(e−1)) >> e) + y_zero_point)` of exact sums, codes of any sign (N12)."""
    scaled = requantize_dyadic(acc, multiplier, exponent)
    return np.clip(scaled + y_zero_point, y_min, y_max)


def rescale_sum(
    acc: NDArray[np.int64], bias: ArrayLike, multiplier: NDArray[np.int32], y_min: int, y_max: int
) -> NDArray[np.int32]:
    """`clamp(((acc + bias) · m + 2^(e−1)) >> e, y_min, y_max)` (N17), int32 of acc's shape.

    acc int64 [..., N]; bias int32 [N] or a scalar; multiplier int32 [2, N].

    >>> rescale_sum(np.array([3, -3]), 0, np.int32([[1 << 30, 1 << 30], [30, 30]]), 0, 9).tolist()
    [3, 0]
    """
    total = saturate_int32(acc + np.asarray(bias, np.int64))
    scaled = requantize_dyadic(total, *multiplier)
    return np.clip(scaled, max(y_min, INT32[0]), min(y_max, INT32[1])).astype(np.int32)
