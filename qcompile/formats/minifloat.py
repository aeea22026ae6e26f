# SPDX-License-Identifier: Apache-2.0
"""Floats of 3 to 8 bits: e<E>m<M>, a sign, E bits of exponent, M of mantissa, subnormals kept.

(−1)^s · 2^(e − B) · (1 + m / 2^M), and (−1)^s · 2^(1 − B) · m / 2^M where e = 0, B = 2^(E−1) − 1
(Baalen et al., "Minifloats and integers", 2023, section 2). All codes are finite, but for those of
the OCP formats E4M3 (S.1111.111 is NaN) and E5M2 (exponent 31 is infinity and NaN; OFP8 1.0,
section 5.1): these repeat the largest value and are never written. The code is the bit pattern, so
that of −0 equals 0, and a tie goes to the even mantissa.

fp<b> is the one of b bits that fits each weight best ("Low-Bitwidth Floating Point Quantization",
diffusion models, 2024, section 3: E and M are searched for, by tensor); settle_formats.py takes it.

The table counts in the smallest subnormal. Where that would leave int64 (6 exponent bits and more)
it counts in a larger unit, and what is below half of it is 0.
"""

from dataclasses import replace

from qcompile.formats.format import Format

_LARGEST = 2**62
_NEVER_WRITTEN = {(4, 3): 1, (5, 2): 4}  # codes of each sign that are no numbers


def minifloat(exponent_bits: int, mantissa_bits: int, name: str | None = None) -> Format:
    """The format; a name of its own has all its codes finite.

    >>> minifloat(2, 1).table[:8], minifloat(2, 1).table_scale
    ((0, 1, 2, 3, 4, 6, 8, 12), 0.5)
    """
    asked = name or f"e{exponent_bits}m{mantissa_bits}"
    bits = 1 + exponent_bits + mantissa_bits
    steps = 2**mantissa_bits
    half = [*range(steps)]
    for exponent in range(1, 2**exponent_bits):
        half += [(steps + m) << (exponent - 1) for m in range(steps)]
    lost = 0 if name else _NEVER_WRITTEN.get((exponent_bits, mantissa_bits), 0)
    half[len(half) - lost :] = [half[len(half) - lost - 1]] * lost
    unit = 1
    while half[-1] // unit > _LARGEST:
        unit *= 2
    half = [round(v / unit) if unit > 1 else v for v in half]
    smallest = 2.0 ** (2 - 2 ** (exponent_bits - 1) - mantissa_bits)
    table = (*half, *(-v for v in half))
    return Format(asked, bits, is_signed=True, table=table, table_scale=smallest * unit)


def searched(bits: int) -> Format:
    """fp<b>; its table is where a search starts, with half of the bits after the sign for M.

    >>> searched(4).table == minifloat(2, 1).table, str(searched(4))
    (True, 'fp4')
    """
    mantissa = (bits - 1) // 2
    return replace(minifloat(bits - 1 - mantissa, mantissa, f"fp{bits}"), is_fitted=True)


def splits(bits: int) -> list[str]:
    """The names of all floats of so many bits.

    >>> splits(4)
    ['e1m2', 'e2m1', 'e3m0']
    """
    return [f"e{e}m{bits - 1 - e}" for e in range(1, bits)]


SEARCHED = tuple(f"fp{b}" for b in range(3, 9))
NAMES = ("e2m1", "e3m0", "e2m3", "e3m2", "e4m3", "e5m2")
# E4M3 with all codes finite, up to 480; no layout of RF8 is published. Its bias, a real number, is
# the scale of each weight: weight_scale_method ggd chooses it.
RF8 = minifloat(4, 3, "rf8")
