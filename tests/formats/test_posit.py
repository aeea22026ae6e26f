# SPDX-License-Identifier: Apache-2.0
"""Posits of every code against a reference that reads bits with integers alone (XR-NPE's check)."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.formats import get
from qcompile.formats.posit import posit_value
from qcompile.numerics.quantize import quantize


def reference(code: int, bits: int, exponent_bits: int) -> float | None:
    """Gustafson and Yonemoto's figure 5, by shifts: no strings, no fractions."""
    if code == 0:
        return 0.0
    if code == 1 << (bits - 1):
        return None
    sign = code >> (bits - 1)
    body = (-code if sign else code) & ((1 << (bits - 1)) - 1)
    left = bits - 1
    first = body >> (left - 1) & 1
    run = 0
    while left and (body >> (left - 1) & 1) == first:
        run, left = run + 1, left - 1
    left = max(left - 1, 0)  # the bit that ends the run
    regime = run - 1 if first else -run
    body &= (1 << left) - 1
    taken = min(exponent_bits, left)
    exponent = (body >> (left - taken)) << (exponent_bits - taken)
    left -= taken
    fraction = (body & ((1 << left) - 1)) / (1 << left)
    value = (1 + fraction) * 2.0 ** (regime * 2**exponent_bits + exponent)
    return -value if sign else value


@pytest.mark.parametrize(
    ("bits", "exponent_bits"), [(4, 1), (8, 0), (8, 1), (8, 2), (6, 0), (5, 3), (2, 0), (16, 1)]
)
def test_every_code(bits: int, exponent_bits: int) -> None:
    for code in range(2**bits):
        found = posit_value(code, bits, exponent_bits)
        expected = reference(code, bits, exponent_bits)
        assert (found is None) == (expected is None)
        assert found is None or float(found) == expected


@pytest.mark.parametrize(("bits", "exponent_bits"), [(4, 1), (8, 0), (8, 2), (16, 1)])
def test_codes_ascend(bits: int, exponent_bits: int) -> None:
    """Signed codes are in the order of their values (XR-NPE's check)."""
    half = 2 ** (bits - 1)
    codes = [*range(half + 1, 2 * half), *range(half)]
    values = [posit_value(code, bits, exponent_bits) for code in codes]
    assert all(a < b for a, b in pairwise(values))  # type: ignore[operator]


def test_tables_are_the_values() -> None:
    for name, bits, exponent_bits in (("posit4_1", 4, 1), ("posit8_0", 8, 0)):
        format = get(name)
        real = format.values.astype(np.float64) * format.table_scale
        expected = [reference(code, bits, exponent_bits) or 0.0 for code in range(2**bits)]
        assert real.tolist() == expected
    assert get("posit4_1").entry_bits == get("posit8_0").entry_bits == 16
    ends = get("posit8_0")
    assert (ends.absmax(symmetric=True) * ends.table_scale, ends.table_scale) == (64, 1 / 64)


def test_not_a_real_is_never_written() -> None:
    real = np.linspace(-70, 70, 5001, dtype=np.float32)
    assert 128 not in quantize(real, 1 / 64, 0, get("posit8_0"))


def test_posit16_1_is_decoded_and_refused() -> None:
    assert posit_value(0x4000, 16, 1) == 1 and posit_value(0x7FFF, 16, 1) == 2**28
    assert posit_value(0x0001, 16, 1) == Fraction(1, 2**28) and posit_value(0x8000, 16, 1) is None
    with pytest.raises(InputError, match=r'"posit16_1" has no kernel: 16 bits, and kernels run'):
        get("posit16_1")
