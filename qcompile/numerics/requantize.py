# SPDX-License-Identifier: Apache-2.0
"""Requantization of exact sums to codes: the f32 path (N11) and the dyadic one (N12)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    """`clamp(rint(f32(acc + bias) · multiplier) + y_zero_point)` (N11).

    acc int64 [..., N]; bias int32 and multiplier float32 [N] or scalars.
    """
    total = saturate_int32(acc + np.asarray(bias, np.int64)).astype(np.float32)
    scaled = np.rint(total * np.asarray(multiplier, np.float32)).astype(np.float64)
    return np.clip(scaled + y_zero_point, y_min, y_max).astype(np.uint8)


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
    acc: NDArray[np.int64], multiplier: ArrayLike, exponent: ArrayLike
) -> NDArray[np.int64]:
    """`(acc · m + 2^(e−1)) >> e`, half-up (N12); |acc| < 2^31, 0 ≤ m < 2^31, 1 ≤ e ≤ 62.

    >>> requantize_dyadic(np.array([3, -3, 5]), 1 << 30, 31).tolist()
    [2, -1, 3]
    """
    m, e = np.asarray(multiplier, np.int64), np.asarray(exponent, np.int64)
    return (acc.astype(np.int64) * m + (np.int64(1) << (e - 1))) >> e
