# SPDX-License-Identifier: Apache-2.0
"""Formats of rotated weights: rows are turned by Hadamard matrices, which makes them nearly normal.

Lloyd-Max levels of N(0, 1) (Max 1960, table I) as integers of one byte, whose squared error is 0.00
to 0.12 % above that of the levels; table_scale is what one unit is worth.

itq3 (ITQ3_S): blocks of 256 along K, orthonormal Hadamard transform, eight levels, one f16 scale.
itq3_ternary has the paper's levels −3, −1, 0, 1 and 3. Deviations: random signs go before the
transform, so that a constant block is spread, too; the levels are symmetric, so there is no zero
point; codes are packed as all 3-bit codes are, not interleaved; the inputs of a product are turned,
once a row, instead of its weights.

tq1 … tq4 (TurboQuant, Zandieh et al. 2025, algorithm 1): whole rows, two rounds, the scale of a row
is its norm. Deviation: levels of N(0, 1), to which the paper's Beta density tends, for all sizes.
"""

from qcompile.formats.format import Format, Turns

_HALVES: dict[int, tuple[tuple[int, ...], float]] = {  # bits → positive levels, unit
    1: ((1,), 0.7978845608),
    2: ((3, 10), 0.1510417609),
    3: ((3, 9, 16, 26), 0.0830982111),
    4: ((5, 15, 25, 36, 48, 62, 79, 104), 0.0262223499),
}
ITQ3_BLOCK = 256


def _levels(bits: int) -> tuple[int, ...]:
    half = _HALVES[bits][0]
    return (*(-v for v in reversed(half)), *half)


_BLOCKS, _ROWS = Turns(ITQ3_BLOCK, 1), Turns(0, 2)
ITQ3 = Format("itq3", 3, True, _levels(3), _HALVES[3][1], turns=_BLOCKS)
ITQ3_TERNARY = Format("itq3_ternary", 3, True, (-3, -1, 0, 1, 3, 3, 3, 3), turns=_BLOCKS)
TURBO = [
    Format(f"tq{bits}", bits, True, _levels(bits), _HALVES[bits][1], turns=_ROWS)
    for bits in _HALVES
]
ROTATED = [ITQ3, ITQ3_TERNARY, *TURBO]
