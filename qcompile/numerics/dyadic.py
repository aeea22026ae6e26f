# SPDX-License-Identifier: Apache-2.0
"""Dyadic numbers m · 2^-e in place of float multipliers (N12, N17, N18): integers all the way.

HAWQ-V3 (Yao et al. 2021, section 3.1) rescales every sum by such a number; here m is the nearest of
31 bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_EXPONENT = 62  # the product is below 2^62, and so is the half that is added
LARGEST_RATIO = 2.0**29  # the largest whose e is at least 1
INT32 = (-(2**31), 2**31 - 1)


def dyadic(ratio: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(m, e) with m · 2^-e nearest to the ratio, 2^30 ≤ |m| < 2^31 (N12); float64 of any shape.

    The error is at most 2^-31 of the ratio; below 2^-32, where e stays 62, at most 2^-63.

    >>> [int(v) for v in dyadic(0.75)], [int(v) for v in dyadic(-1.0)]
    ([1610612736, 31], [-1073741824, 30])
    """
    given = np.asarray(ratio, np.float64)
    assert np.isfinite(given).all() and (np.abs(given) < LARGEST_RATIO).all()
    _, power = np.frexp(given)
    e = np.clip(31 - power.astype(np.int64), 1, MAX_EXPONENT)
    m = np.rint(np.ldexp(given, e)).astype(np.int64)
    is_carried = np.abs(m) == 1 << 31  # rounding up to 2^31: half of it with one less in e
    return np.where(is_carried, m >> 1, m), e - is_carried


@dataclass(frozen=True)
class DyadicPair:
    """The numbers a / 2^exponent and b / 2^exponent (N18)."""

    a: int
    b: int
    exponent: int

    @classmethod
    def of(cls, a: float, b: float) -> "DyadicPair":
        """Two ratios with the exponent of the larger (N18).

        >>> DyadicPair.of(0.5, -0.25)
        DyadicPair(a=1073741824, b=-536870912, exponent=31)
        """
        _, e = dyadic(max(abs(a), abs(b)))
        left, right = (int(np.rint(np.ldexp(ratio, int(e)))) for ratio in (a, b))
        return cls(left, right, int(e))


def shift_half_up(value: ArrayLike, e: ArrayLike) -> NDArray[np.int64]:
    """`(value + 2^(e−1)) >> e` (N12); |value| < 2^62 + 2^61.

    >>> shift_half_up([3, -3, 5], 1).tolist()
    [2, -1, 3]
    """
    shift = np.asarray(e, np.int64)
    return (np.asarray(value, np.int64) + (np.int64(1) << (shift - 1))) >> shift


def as_operand(ratio: ArrayLike) -> NDArray[np.int32]:
    """The ratios [N] as the multiplier of a node: int32 [2, N], m then e."""
    return np.stack(dyadic(ratio)).astype(np.int32)


def as_ratios(multiplier: NDArray[np.float32]) -> tuple[NDArray[np.int32], np.float32]:
    """The multipliers [N] of floats (N16) as an operand [2, N] and the scale that all share (N17).

    >>> operand, scale = as_ratios(np.float32([0.5, 2.0]))
    >>> operand.tolist(), float(scale)
    ([[1073741824, 1073741824], [32, 30]], 2.0)
    """
    scale = np.float32(multiplier.max(initial=np.float32(2.0**-126)))
    return as_operand(multiplier.astype(np.float64) / float(scale)), scale


def as_float(operand: NDArray[np.int32]) -> NDArray[np.float64]:
    """m · 2^-e of an operand [2, N], float64 [N]."""
    return np.ldexp(operand[0].astype(np.float64), -operand[1])
