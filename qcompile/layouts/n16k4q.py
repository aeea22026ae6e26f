# SPDX-License-Identifier: Apache-2.0
"""n16k4q/1: codes of five levels, three of them a number of 7 bits (docs/layouts.md)."""

import numpy as np

from qcompile.formats import Format
from qcompile.formats.balanced import BALANCED
from qcompile.layouts.layout import Shape
from qcompile.layouts.n16k4 import (
    TILE,
    Codes,
    Coding,
    codes_of_steps,
    field_bytes,
    layout_of,
    steps_of,
    steps_of_fields,
)

LEVELS, TOGETHER, BITS = 5, 3, 7
_NUMBERS = 8  # of 4 columns each: what a vector of the 1-bit field holds
COLUMNS = 4 * TOGETHER * _NUMBERS  # of a chunk
_BORDERS = (-77, -26, 25, 76)  # the first level of a byte is how many of these it is above


def saves(shape: Shape) -> bool:
    """Whether it is smaller than n16k4, and holds its blocks: those of 3 bits have chunks of 32."""
    if shape.format != BALANCED or (shape.num_blocks > 1 and shape.block % COLUMNS):
        return False
    return QUINTS.padded(shape.K, shape.format) * BITS < -(-shape.K // 32) * 32 * 3 * TOGETHER


def quint_numbers(levels: Codes) -> Codes:
    """Codes 0 … 4 […, 3, V] as numbers of 7 bits […, V].

    The number is ceil(Σ u_i 5^(2-i) · 128 / 125) + 64 mod 128. Twice it, as a signed byte, is
    above as many of four borders as the first code says, and five times that mod 256 has the next
    one there: the fractions are off by less than 1/128, and 1/125 is the next one.
    """
    powers = LEVELS ** np.arange(TOGETHER - 1, -1, -1)
    number = (levels.astype(np.int64) * powers[:, None]).sum(-2)
    return ((-(-number * 128 // 125) + 64) % 128).astype(np.uint8)


def quints_of(numbers: Codes) -> Codes:
    """The inverse of `quint_numbers`, of numbers [..., V]: [..., 3, V]."""
    found, rest = [], numbers * np.uint8(2)
    for _ in range(TOGETHER):
        signed = rest.view(np.int8)
        found.append(sum((signed > border).astype(np.uint8) for border in _BORDERS))
        rest = rest * np.uint8(LEVELS)
    return np.stack(found, axis=-2)


def _chunk_columns(_: Format) -> int:
    return COLUMNS


def _chunk_bytes(_: Format) -> int:
    return BITS * TILE * 4


def _to_bytes(u: Codes, _: Codes | None, format: Format) -> Codes:
    if (u >= LEVELS).any():
        raise ValueError(f"n16k4q/1: an index of {format} is above {LEVELS - 1}")
    steps = steps_of(u, COLUMNS)
    levels = steps.reshape(*steps.shape[:2], _NUMBERS, TOGETHER, TILE * 4)
    return field_bytes(quint_numbers(levels), BITS).ravel()


def _from_bytes(data: Codes, tiles: int, _: Codes | None, __: Format) -> Codes:
    vectors = data.reshape(-1, tiles, BITS, TILE * 4)
    levels = quints_of(steps_of_fields(vectors, BITS))
    return codes_of_steps(levels.reshape(*levels.shape[:2], -1, TILE * 4))


QUINTS = Coding("n16k4q/1", _chunk_columns, _chunk_bytes, _to_bytes, _from_bytes)
N16K4Q = layout_of(QUINTS)
