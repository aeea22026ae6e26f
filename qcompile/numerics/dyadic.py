# SPDX-License-Identifier: Apache-2.0
"""Dyadic numbers m / 2^e in place of float scales (N40); HAWQ-V3 (Yao et al. 2021), section 3.2."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

MULTIPLIER_BITS = 31
LARGEST_EXPONENT = 62
# Just below, the mantissa may round up to 1 and take 1 from an exponent of 2.
LARGEST_SCALE = 2.0**29


def dyadic(scale: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(m, e) of the scale's shape, m / 2^e next to it (N40); 0 < scale < 2^29, else ValueError.

    |m / 2^e − scale| ≤ 2^-31 · scale; below 2^-32, where e would pass 62, ≤ 2^-63.

    >>> [int(v) for v in dyadic(0.75)]
    [1610612736, 31]
    >>> [int(v) for v in dyadic(1 - 2.0**-40)]
    [1073741824, 30]
    """
    values = np.asarray(scale, np.float64)
    is_legal = (values > 0) & (values < LARGEST_SCALE)
    if not is_legal.all():
        raise ValueError(f"scale {values[~is_legal].flat[0]} is not above 0 and below 2^29")
    pairs = [_pair(float(value)) for value in values.flat]
    m, e = np.array(pairs, np.int32).reshape(-1, 2).T
    return m.reshape(values.shape), e.reshape(values.shape)


def _pair(scale: float) -> tuple[int, int]:
    exponent = min(MULTIPLIER_BITS - math.frexp(scale)[1], LARGEST_EXPONENT)
    value = math.ldexp(scale, exponent)
    m = math.floor(value)
    m += value - m >= 0.5  # exact, where value + 0.5 would be rounded
    if m == 1 << MULTIPLIER_BITS:  # the mantissa rounded up to 1
        return m >> 1, exponent - 1
    return m, exponent
