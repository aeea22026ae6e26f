# SPDX-License-Identifier: Apache-2.0
"""QAdd: the sum of two quantized tensors (N18, N20)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.dyadic import DyadicPair, shift_half_up


def qadd(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    a_multiplier: float,
    b_multiplier: float,
    a_zero_point: int,
    b_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
    *,
    is_dyadic: bool = False,
) -> NDArray[np.uint8]:
    """uint8 codes of a + b, broadcast (N20, or N18); multipliers are `scale / y_scale`.

    >>> qadd(np.uint8([130]), np.uint8([10]), 0.5, 2.0, 128, 8, 100).tolist()
    [105]
    """
    if is_dyadic:
        pair = DyadicPair.of(*(float(np.float32(v)) for v in (a_multiplier, b_multiplier)))
        points = a_zero_point, b_zero_point, y_zero_point
        return add_dyadic(a, b, pair, points, (y_min, y_max)).astype(np.uint8)
    left = (a.astype(np.int32) - a_zero_point).astype(np.float32) * np.float32(a_multiplier)
    right = (b.astype(np.int32) - b_zero_point).astype(np.float32) * np.float32(b_multiplier)
    code = np.rint(left + right).astype(np.float64) + y_zero_point
    return np.clip(code, y_min, y_max).astype(np.uint8)


def add_dyadic(
    a: NDArray,
    b: NDArray,
    pair: DyadicPair,
    zero_points: tuple[int, int, int],
    limits: tuple[int, int],
) -> NDArray[np.int64]:
    """Codes of a + b, broadcast, rounded once (N18); zero points of a, b and the sum."""
    a_zero_point, b_zero_point, y_zero_point = zero_points
    left = (a.astype(np.int64) - a_zero_point) * pair.a
    right = (b.astype(np.int64) - b_zero_point) * pair.b
    return np.clip(shift_half_up(left + right, pair.exponent) + y_zero_point, *limits)
