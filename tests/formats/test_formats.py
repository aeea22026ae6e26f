# SPDX-License-Identifier: Apache-2.0
"""Every format of FORMATS, exhaustively over its codes (N1, N2, N3)."""

import ml_dtypes
import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.formats import FORMATS, Format, get
from qcompile.numerics.quantize import dequantize, quantize

ALL = pytest.mark.parametrize("format", FORMATS.values(), ids=str)
SCALE = np.float32(0.375)  # 3 · 2^-3: products with integers below 2^22 are exact


def nearest_code(ratio: float, format: Format, allowed: range) -> int:
    """The code of the nearest value by a loop; a tie goes to the even code.

    A code that repeats a value is never written.
    """
    best = None
    for code in allowed:
        if format.is_table and first_code_of_value(format, code) != code:
            continue
        value = int(format.values[code - format.code_min])
        key = (abs(value - ratio), code % 2, code)
        best = min(best, key) if best is not None else key
    assert best is not None
    return best[2]


def first_code_of_value(format: Format, code: int) -> int:
    """The least code with the same value: −0 of e2m1 equals 0."""
    values = format.values.tolist()
    return format.code_min + values.index(values[code - format.code_min])


@ALL
def test_code_of_its_value_is_the_code(format: Format) -> None:
    real = dequantize(format.codes, SCALE, 0, format)
    expected = [first_code_of_value(format, int(c)) for c in format.codes]
    assert quantize(real, SCALE, 0, format, symmetric=False).tolist() == expected


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if not f.is_table], ids=str)
def test_code_of_its_value_with_every_zero_point(format: Format) -> None:
    for zero_point in format.codes.tolist():
        real = dequantize(format.codes, SCALE, zero_point, format)
        codes = quantize(real, SCALE, zero_point, format, symmetric=False)
        assert np.array_equal(codes, format.codes)


@ALL
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantize_is_nearest_by_brute_force(format: Format, symmetric: bool) -> None:
    low, high = format.quantized_range(symmetric=symmetric)
    values = np.unique(format.values[low - format.code_min : high - format.code_min + 1])
    spread = float(np.abs(values).max()) + 3
    rng = np.random.default_rng(format.bits)
    ratios = np.concatenate(
        [
            rng.uniform(-spread, spread, 200).astype(np.float32),
            (values[1:] + values[:-1]) / 2,  # exact midpoints
            values + 0.25,
            [-(2.0**30), 2.0**30],
        ]
    ).astype(np.float32)
    expected = [nearest_code(float(r), format, range(low, high + 1)) for r in ratios]
    assert quantize(ratios, 1, 0, format, symmetric=symmetric).tolist() == expected


@ALL
def test_quantize_is_monotone(format: Format) -> None:
    real = np.linspace(-300, 300, 4001, dtype=np.float32)
    codes = quantize(real, 1, 0, format, symmetric=False)
    assert (np.diff(dequantize(codes, 1, 0, format)) >= 0).all()


def test_ranges() -> None:  # N3
    for bits in range(2, 9):
        limit = 2 ** (bits - 1) - 1
        assert get(f"int{bits}").quantized_range(symmetric=True) == (-limit, limit)
        assert get(f"int{bits}").quantized_range(symmetric=False) == (-limit - 1, limit)
    for bits in range(1, 9):
        assert get(f"uint{bits}").quantized_range(symmetric=False) == (0, 2**bits - 1)
    assert get("int1").quantized_range(symmetric=True) == (-1, 0)


def test_absmax_and_offset() -> None:
    assert [get(n).absmax(symmetric=True) for n in ("int1", "int2", "int8")] == [1, 1, 127]
    assert [get(n).absmax(symmetric=True) for n in ("binary", "e2m1", "uint3")] == [1, 12, 7]
    assert [get(n).offset for n in ("int1", "int8", "uint8", "e2m1")] == [1, 128, 0, 0]


def test_saturation_and_infinity() -> None:
    assert quantize([np.inf, -np.inf, 3e38], 1e-30, 0, get("int8")).tolist() == [127, -127, 127]
    assert quantize([np.inf, -np.inf], 1, 128, get("uint8"), symmetric=False).tolist() == [255, 0]


def test_e2m1_is_that_of_ml_dtypes() -> None:
    format = get("e2m1")
    patterns = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    mine = format.values.astype(np.float32) * np.float32(format.table_scale)
    assert np.array_equal(mine, patterns)
    real = np.linspace(
        -7, 7, 1793, dtype=np.float32
    )  # steps of 1/128: all midpoints are among them
    theirs = real.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    codes = quantize(real, format.table_scale, 0, format)
    assert np.array_equal(dequantize(codes, format.table_scale, 0, format), theirs)


@pytest.mark.parametrize("name", ["int2", "int4", "uint4"])
def test_integers_are_those_of_ml_dtypes(name: str) -> None:
    format = get(name)
    info = ml_dtypes.iinfo(getattr(ml_dtypes, name))
    assert (format.code_min, format.code_max) == (info.min, info.max)


def test_a_fifth_level_lowers_the_error_of_two_bits() -> None:
    """The check of ABQ-LLM's bit balance; ResNet-20's weights, a row a scale: .351 → .202."""
    weight = np.random.default_rng(0).standard_normal((64, 144)).astype(np.float32)
    amax = np.abs(weight).max(1, keepdims=True)
    error = {}
    for name in ("int2", "balanced2", "int3"):
        format = get(name)
        scale = amax / format.absmax(symmetric=True)
        left = dequantize(quantize(weight, scale, 0, format), scale, 0, format) - weight
        error[name] = float(np.square(left).sum() / np.square(weight).sum())
    assert error["int3"] < error["balanced2"] < 0.6 * error["int2"]
    assert sorted(set(get("balanced2").values.tolist())) == [-2, -1, 0, 1, 2]
    every = quantize(np.linspace(-9, 9, 1000, dtype=np.float32), 1, 0, get("balanced2"))
    assert set(every.tolist()) == {0, 1, 2, 3, 4}  # what repeats 2 is never written


def test_unknown_format_names_the_nearest() -> None:
    with pytest.raises(InputError) as error:
        get("int44")
    assert str(error.value) == 'unknown format "int44": did you mean "int4"?'


def test_formats_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^format x: 9 bits; 1 to 8 are possible$"):
        Format("x", 9, is_signed=True)
    with pytest.raises(ValueError, match=r"^format x: 3 values for 2 bits; needs 4$"):
        Format("x", 2, is_signed=False, table=(0, 1, 2))
