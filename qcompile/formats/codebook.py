# SPDX-License-Identifier: Apache-2.0
"""Codebooks of a normal distribution, and tables of one's own.

nf<b>      QLoRA's NormalFloat (Dettmers et al. 2023, section 3): quantiles, an exact 0, ends at ±1.
lloyd<b>   the levels with the least squared error (Max 1960; Lloyd 1982), for N(0, 1).
gquant<b>  the levels with the least absolute error: a level is the median of what falls to it
           (Binary Adapters, Jie et al. 2023, section 3.2), for N(0, 1). Deviation: no mean of
           the weights is taken off first, for kernels would add it times the sum of x.
kmeans<b>  levels fitted to each weight (observers/levels.py); lloyd<b> is where the fit starts.
NAME[…]    the table that stands in the brackets, 2 to 256 integers.

Levels are real numbers; tables have int16 entries, the largest one 32639, but for fitted ones of at
most 4 bits, which have int8 entries where that costs nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import erf, exp, pi, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError
from qcompile.formats.format import Format

Levels = NDArray[np.float64]
_NORMAL = NormalDist()
LARGEST = 32767 - 128  # kernels add a byte to an entry in 16 bits (docs/kernels.md, many rows)
_ROUNDS = 2000
_OFFSET = 0.9677083  # of QLoRA: (1/32 + 1/30) / 2 below 1
NAMES = ("nf3", "nf4", *(f"gquant{b}" for b in range(1, 5)), *(f"lloyd{b}" for b in range(1, 9)))
FITTED = tuple(f"kmeans{b}" for b in range(2, 9))


def nf(bits: int) -> Format:
    """NormalFloat: one level more above 0 than below."""
    half = 2 ** (bits - 1)

    def side(count: int) -> list[float]:
        return [_NORMAL.inv_cdf(p) for p in np.linspace(_OFFSET, 0.5, count + 1)[:-1]]

    levels = np.array(sorted([*side(half), 0.0, *(-v for v in side(half - 1))]))
    return from_levels(f"nf{bits}", levels / levels.max())


def lloyd(bits: int, name: str | None = None) -> Format:
    """Lloyd-Max levels of N(0, 1)."""
    return from_levels(name or f"lloyd{bits}", fixed_point(bits, _mean_between))


def gquant(bits: int) -> Format:
    """Levels that are medians of N(0, 1)."""
    return from_levels(f"gquant{bits}", fixed_point(bits, _median_between))


def kmeans(bits: int) -> Format:
    """The start of a fit."""
    return replace(lloyd(bits, f"kmeans{bits}"), is_fitted=True)


@cache
def fixed_point(bits: int, level: Callable[[Levels], Levels]) -> Levels:
    """2^bits ascending levels, each of them `level` of the normal between its borders.

    Borders are the middles between neighbours. The start, quantiles of N(0, 3), has the density
    that is best for many levels (Gersho and Gray 1992, section 6.3).

    >>> fixed_point(2, _mean_between).round(4).tolist()
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    at = (np.arange(2**bits) + 0.5) / 2**bits
    levels = np.array([sqrt(3) * _NORMAL.inv_cdf(p) for p in at])
    for _ in range(_ROUNDS):
        borders = np.r_[-np.inf, (levels[1:] + levels[:-1]) / 2, np.inf]
        found = level(borders)
        moved, levels = np.abs(found - levels).max(), found
        if moved < 1e-9:
            break
    return (levels - levels[::-1]) / 2


def _cdf(x: Levels) -> Levels:
    return np.array([0.5 * (1 + erf(v / sqrt(2))) for v in x])


def _mean_between(borders: Levels) -> Levels:
    density = np.array([exp(-v * v / 2) / sqrt(2 * pi) for v in borders])
    return (density[:-1] - density[1:]) / np.diff(_cdf(borders))


def _median_between(borders: Levels) -> Levels:
    below = _cdf(borders)
    return np.array([_NORMAL.inv_cdf(p) for p in (below[1:] + below[:-1]) / 2])


def from_levels(name: str, levels: Levels, largest: int = LARGEST) -> Format:
    """The format of 2^b ascending levels, with entries of at most `largest`.

    >>> from_levels("two", np.array([-0.5, 1.0]), 127).table
    (-64, 127)
    """
    unit = float(np.abs(levels).max()) / largest
    table = np.rint(levels / unit).astype(np.int64)
    common = int(np.gcd.reduce(table))  # two levels are −1 and 1
    entries = tuple(int(v) for v in table // common)
    bits = (len(entries) - 1).bit_length()
    return Format(name, bits, is_signed=True, table=entries, table_scale=unit * common)


def own_table(name: str, text: str) -> Format:
    """The format NAME[text]; fewer than 2^b entries are filled with the last one.

    >>> str(own_table("mine", "-4,-1,0,1,4")), own_table("mine", "-4,-1,0,1,4").bits
    ('mine[-4,-1,0,1,4,4,4,4]', 3)
    """
    whole = f"{name}[{text}]"
    try:
        entries = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f'format "{whole}": a table is integers with commas between; scale them up'
        ) from None
    if not 2 <= len(entries) <= 256 or any(float(np.float32(v)) != v for v in entries):
        raise InputError(
            f'format "{whole}": {len(entries)} entries; 2 to 256 are possible, all exact in float32'
        )
    if max(map(abs, entries)) == 0 or max(map(abs, entries)) > 2**62:
        raise InputError(f'format "{whole}": entries reach from 1 to 2^62, not all of them 0')
    bits = (len(entries) - 1).bit_length()
    entries += [entries[-1]] * (2**bits - len(entries))
    return Format(name, bits, is_signed=True, table=tuple(entries), has_own_table=True)
