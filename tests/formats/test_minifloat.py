# SPDX-License-Identifier: Apache-2.0
"""Floats of 3 to 8 bits against ml_dtypes and against their definition (N1, N2)."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.formats import get
from qcompile.numerics.quantize import dequantize, quantize

IN_ML_DTYPES = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


def pairs() -> list[tuple[int, int]]:
    """Every (E, M) of 3 to 8 bits."""
    return [(e, bits - 1 - e) for bits in range(3, 9) for e in range(1, bits)]


@pytest.mark.parametrize("name", list(IN_ML_DTYPES))
def test_every_code_is_that_of_ml_dtypes(name: str) -> None:
    format = get(name)
    patterns = np.arange(2**format.bits, dtype=np.uint8).view(IN_ML_DTYPES[name])
    theirs = patterns.astype(np.float32)
    mine = format.values.astype(np.float32) * np.float32(format.table_scale)
    is_number = np.isfinite(theirs)
    assert np.array_equal(mine[is_number], theirs[is_number])
    assert int((~is_number).sum()) == {"e4m3": 2, "e5m2": 8}.get(name, 0)


@pytest.mark.parametrize("name", list(IN_ML_DTYPES))
def test_rounding_is_that_of_ml_dtypes(name: str) -> None:
    """Every real of bfloat16's precision in the range, exact middles among them."""
    format = get(name)
    largest = np.float32(format.absmax(symmetric=True) * format.table_scale)
    bits = np.arange(0, 2**16, dtype=np.uint32) << 16
    real = bits.view(np.float32)
    real = real[np.isfinite(real) & (np.abs(real) <= largest) & (np.abs(real) >= 1e-30)]
    theirs = real.astype(IN_ML_DTYPES[name]).astype(np.float32)
    scale = np.float32(format.table_scale)
    mine = dequantize(quantize(real, scale, 0, format), scale, 0, format)
    assert np.array_equal(mine, theirs)
    wrong = quantize(real, scale * np.float32(1.01), 0, format)  # the twin: another scale is seen
    assert not np.array_equal(dequantize(wrong, scale, 0, format), theirs)


@pytest.mark.parametrize(("exponent_bits", "mantissa_bits"), pairs())
def test_values_are_those_of_the_definition(exponent_bits: int, mantissa_bits: int) -> None:
    name = f"e{exponent_bits}m{mantissa_bits}"
    if exponent_bits == 1 and mantissa_bits == 0:
        return
    format = get(name)
    bias = 2 ** (exponent_bits - 1) - 1
    never_written = {"e4m3": 1, "e5m2": 4}.get(name, 0)
    table = format.table or ()
    for code in range(2 ** (format.bits - 1) - never_written):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        fraction = Fraction(mantissa, 2**mantissa_bits)
        value = Fraction(2) ** (max(exponent, 1) - bias) * (fraction + (exponent > 0))
        lost = abs(table[code] * Fraction(format.table_scale) - value)
        assert lost <= Fraction(format.table_scale) / 2 if exponent_bits > 5 else lost == 0
        assert table[code + 2 ** (format.bits - 1)] == -table[code]


def test_one_exponent_bit_is_an_integer() -> None:
    """E1M2 is INT4 in quarters ("INT v.s. FP", check 4)."""
    for mantissa_bits in range(1, 7):
        steps = set(get(f"e1m{mantissa_bits}").values.tolist())
        assert steps == set(range(-(2 ** (mantissa_bits + 1)) + 1, 2 ** (mantissa_bits + 1)))


def test_rf8_has_no_codes_that_are_no_numbers() -> None:
    rf8 = get("rf8")
    assert rf8.absmax(symmetric=True) * rf8.table_scale == 480
    assert len(set(rf8.values.tolist())) == 255


def test_int16_entries() -> None:
    """A power of two apart and rounded; the error is that of half a step."""
    narrow = get("e4m3").in_int16()
    assert narrow is not get("e4m3") and str(narrow) == "e4m3_int16"
    assert get("e4m3_int16").table == narrow.table
    assert np.log2(narrow.table_scale / get("e4m3").table_scale) == 3
    assert 0 < narrow.rounding_error(get("e4m3")) <= 0.5 / narrow.absmax(symmetric=True)
    assert get("e2m3").in_int16() is get("e2m3")
    assert get("e2m3").rounding_error(get("e2m3")) == 0


@pytest.mark.parametrize("name", ["e0m3", "e1m0", "e4m4", "e9m9", "posit9_0", "posit1_0"])
def test_sizes_that_cannot_be(name: str) -> None:
    with pytest.raises(InputError, match=f'^format "{name}" has '):
        get(name)
