# SPDX-License-Identifier: Apache-2.0
"""posit<n>_<es>, posits of n bits with es exponent bits (Gustafson and Yonemoto 2017, section 2).

A code is read as sign, regime, exponent and fraction: a run of k equal bits after the sign makes
2^(2^es · (k − 1)) of ones and 2^(−2^es · k) of zeros; the next es bits are an exponent, those cut
off being 0, and the rest is the fraction. A negative code is the two's complement of its opposite.
0 is 0, and 10…0, "not a real", repeats 0 and is never written. Of XR-NPE's formats posit4_1 and
posit8_0 have kernels; posit16_1 has more than 8 bits.

Deviation: weights take the nearest value, 0 among them, as every format here does; the posit
standard rounds bit strings, never to 0, which has the larger squared error.
"""

from dataclasses import dataclass
from fractions import Fraction

from qcompile.formats.format import Format

_LARGEST = 2**62
NAMES = ("posit4_1", "posit8_0")


@dataclass(frozen=True)
class Decoded:
    """A format that `posit_value` decodes and no kernel runs: bits, its largest value, why."""

    bits: int
    largest: float
    reason: str


# XR-NPE's third format.
DECODED_ONLY = {"posit16_1": Decoded(16, 2.0**28, "16 bits, and kernels run at most 8")}


def posit_value(code: int, bits: int, exponent_bits: int) -> Fraction | None:
    """The value of a code; None of 10…0.

    >>> [str(posit_value(c, 4, 1)) for c in range(8)]
    ['0', '1/16', '1/4', '1/2', '1', '2', '4', '16']
    """
    if code == 0:
        return Fraction(0)
    if code == 1 << (bits - 1):
        return None
    is_negative = code >> (bits - 1) == 1
    magnitude = (1 << bits) - code if is_negative else code
    string = f"{magnitude:0{bits}b}"[1:]
    run = len(string) - len(string.lstrip(string[0]))
    regime = run - 1 if string[0] == "1" else -run
    rest = string[run + 1 :]
    exponent = int((rest[:exponent_bits] + "0" * exponent_bits)[:exponent_bits] or "0", 2)
    fraction = rest[exponent_bits:]
    value = 1 + Fraction(int(fraction or "0", 2), 2 ** len(fraction))
    value *= Fraction(2) ** (regime * 2**exponent_bits + exponent)
    return -value if is_negative else value


def posit(bits: int, exponent_bits: int) -> Format:
    """The format of at most 8 bits; the table counts in its smallest value, or one near it.

    >>> posit(4, 1).table
    (0, 1, 4, 8, 16, 32, 64, 256, 0, -256, -64, -32, -16, -8, -4, -1)
    """
    found = [posit_value(code, bits, exponent_bits) or Fraction(0) for code in range(2**bits)]
    largest = max(found)
    unit = max(1 / largest, largest / _LARGEST)  # the smallest value is the largest one's inverse
    table = tuple(round(v / unit) for v in found)
    name = f"posit{bits}_{exponent_bits}"
    return Format(name, bits, is_signed=True, table=table, table_scale=float(unit))
