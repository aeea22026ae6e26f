# SPDX-License-Identifier: Apache-2.0
"""BitMoD: a small float whose code of −0 means a value that each group of weights chooses.

BitMoD: Bit-serial Mixture-of-Datatype LLM Acceleration (Chen et al., HPCA 2025), section III: to
the FP3 values 0, ±1, ±2, ±4 a group adds one of ±3 (more resolution) and ±6 (more range), to FP4's,
in halves, one of ±10 and ±16; groups are 128 weights of a row. The scale of a group is its largest
magnitude over the largest value (symmetric), the value is the one with the least squared error.
Deviation: scales are stored as this project stores them, not as INT8 against one of a row.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats.format import Format


def _format(name: str, bits: int, halves: tuple[int, ...], specials: tuple[int, ...]) -> Format:
    table = halves + tuple(-v for v in halves)
    return Format(name, bits, True, table, 0.5, special_code=len(halves), specials=specials)


BITMOD3 = _format("bitmod3", 3, (0, 1, 2, 4), (-6, -3, 3, 6))
BITMOD4 = _format("bitmod4", 4, (0, 1, 2, 3, 4, 6, 8, 12), (-16, -10, 10, 16))
BITMOD = [BITMOD3, BITMOD4]


def values_of(format: Format, special: int) -> NDArray[np.int16]:
    """The value of every code, int16 [2^bits], in a group whose special value is this one.

    >>> values_of(BITMOD3, -3).tolist()
    [0, 1, 2, 4, -3, -1, -2, -4]
    """
    values = format.values.astype(np.int16)
    values[format.special_code] = special
    return values


def nearest_codes(ratio: NDArray[np.floating], format: Format, special: int) -> NDArray[np.int16]:
    """The code of the nearest value, int16 of ratio's shape; a tie goes to the smaller value.

    >>> nearest_codes(np.array([2.4, 2.6, 9.0]), BITMOD3, 3).tolist()
    [2, 4, 3]
    """
    values = values_of(format, special)
    order = np.argsort(values, kind="stable")
    middles = (values[order][1:] + values[order][:-1]) / 2
    return order[np.searchsorted(middles, ratio)].astype(np.int16)


def encode(
    groups: NDArray[np.floating], format: Format, scales: NDArray[np.float32]
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int64]]:
    """Codes, special values and chosen scales of groups of weights.

    groups [num, size]; scales float32 [num, 4], each as it is stored, one for each of the format's
    specials in its order (`largest_scales`). Returns codes int16 [num, size], special int16 [num]
    and the index of the choice [num], that with the least Σ (w − ŵ)² (the first of equals).
    """
    best = np.full(len(groups), np.inf)
    codes = np.zeros(groups.shape, np.int16)
    choice = np.zeros(len(groups), np.int64)
    for i, special in enumerate(format.specials):
        scale = scales[:, i : i + 1].astype(np.float64)
        tried = nearest_codes(groups / scale, format, special)
        error = ((groups - values_of(format, special)[tried] * scale) ** 2).sum(axis=1)
        better = error < best
        best[better], codes[better], choice[better] = error[better], tried[better], i
    return codes, np.array(format.specials, np.int16)[choice], choice


def largest_scales(groups: NDArray[np.floating], format: Format) -> NDArray[np.float32]:
    """The symmetric scales max|w| / max|value| of each special value, float32 [num, 4]."""
    largest = np.abs(groups).max(axis=1, initial=0)[:, None]
    tops = [np.abs(values_of(format, special)).max() for special in format.specials]
    return np.where(largest == 0, 1, largest / np.array(tops)).astype(np.float32)
