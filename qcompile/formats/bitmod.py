# SPDX-License-Identifier: Apache-2.0
"""BitMoD: a small float whose code of −0 means a value that each group of weights chooses.

BitMoD: Bit-serial Mixture-of-Datatype LLM Acceleration (Chen et al., HPCA 2025), section III: to
the FP3 values 0, ±1, ±2, ±4 a group adds one of ±3 (more resolution) and ±6 (more range), to FP4's,
in halves, one of ±10 and ±16; groups are 128 weights of a row. The scale of a group is its largest
magnitude over the largest value (symmetric), the value is the one with the least squared error.
Deviation: scales are stored as this project stores them, not as INT8 against one of a row.
"""

from dataclasses import replace
from functools import lru_cache

from qcompile.formats.format import Format


def _format(name: str, unit: float, sizes: tuple[int, ...], specials: tuple[int, ...]) -> Format:
    table, bits = sizes + tuple(-v for v in sizes), len(sizes).bit_length()
    return Format(name, bits, True, table, unit, special_code=len(sizes), specials=specials)


BITMOD3 = _format("bitmod3", 1.0, (0, 1, 2, 4), (-6, -3, 3, 6))
BITMOD4 = _format("bitmod4", 0.5, (0, 1, 2, 3, 4, 6, 8, 12), (-16, -10, 10, 16))
BITMOD = [BITMOD3, BITMOD4]


@lru_cache
def with_special(format: Format, value: int) -> Format:
    """The format of groups whose special code means this value.

    >>> with_special(BITMOD3, -3).table
    (0, 1, 2, 4, -3, -1, -2, -4)
    """
    table = list(format.table or ())
    table[format.special_code or 0] = value
    return replace(format, table=tuple(table), special_code=None, specials=())
