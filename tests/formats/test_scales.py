# SPDX-License-Identifier: Apache-2.0
"""How scales are stored, against ml_dtypes and the words of their standards (N6)."""

import ml_dtypes
import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.formats import SCALE_FORMATS, get, scale_format
from qcompile.formats.block import BLOCK_FORMATS, block_format, stored_scales
from qcompile.numerics.quantize import store_scale

RNG = np.random.default_rng(0)
WIDE = np.exp2(RNG.uniform(-40, 40, 20_000)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "dtype", "low", "high"),
    [
        ("bf16", ml_dtypes.bfloat16, 2.0**-126, 3e38),
        ("f16", np.float16, 2.0**-14, 65504),
        ("ue4m3", ml_dtypes.float8_e4m3fn, 2.0**-9, 448),
    ],
)
def test_stored_scales_are_those_of_the_type(
    name: str, dtype: type, low: float, high: float
) -> None:
    inside = WIDE[(low <= WIDE) & (high >= WIDE)]
    assert len(inside) > 1000
    assert np.array_equal(store_scale(inside, name), inside.astype(dtype).astype(np.float32))
    assert store_scale([0.0, 1e-45], name).tolist() == [low, low]
    assert np.array_equal(store_scale(store_scale(WIDE, name), name), store_scale(WIDE, name))


def test_powers_of_two_round_up() -> None:
    found = store_scale(WIDE, "e8m0")
    assert np.array_equal(found, np.exp2(np.ceil(np.log2(WIDE.astype(np.float64)))))
    exact = np.exp2(np.arange(-126.0, 128)).astype(np.float32)
    assert np.array_equal(store_scale(exact, "e8m0"), exact)
    assert np.array_equal(
        exact.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32), exact
    )  # all of them are codes of the type


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e4m3", "int8", "int4"])
def test_the_floor_is_that_of_the_standard(name: str) -> None:
    """2^(⌊log2 absmax⌋ − ⌊log2 Qmax⌋), from the absmax that a scale comes from."""
    element = get(name)
    largest = element.absmax(symmetric=True)
    absmax = WIDE.astype(np.float64) * 1.001  # no power of two times Qmax falls on a border
    expected = np.exp2(np.floor(np.log2(absmax)) - np.floor(np.log2(largest)))
    form = stored_scales(element, "e8m0_floor")
    assert np.array_equal(store_scale((absmax / largest).astype(np.float32), form), expected)
    assert not np.array_equal(store_scale((absmax / largest).astype(np.float32), "e8m0"), expected)


def test_a_unit_multiplies_what_is_stored() -> None:
    unit = np.float32(0.0123)
    found = store_scale(WIDE, f"ue4m3*{float(unit)!r}")
    stored = (found / unit).astype(np.float32)
    assert np.array_equal(store_scale(stored, "ue4m3") * unit, found)
    assert found.max() <= 448 * unit and found.min() >= np.float32(2.0**-9) * unit


def test_scales_of_large_tables_fit_f16() -> None:
    """A weight of 1e-3 has scales in f16's range, whatever its table counts in."""
    for name in ("nf4", "e4m3", "e4m3_int16", "posit8_0", "lloyd8", "int8"):
        element = get(name)
        form = stored_scales(element, "f16")
        scale = np.float32(1e-2 / element.absmax(symmetric=True))
        low = scale_format(form).ends[0]
        assert low <= scale
        assert abs(store_scale(scale, form) / scale - 1) <= 2.0**-11


def test_names_of_block_formats() -> None:
    assert set(BLOCK_FORMATS) == {
        *("mxint8", "mxint6", "mxint4", "mxfp8", "mxfp6", "mxfp4", "nvint4", "nvfp4"),
        *("bfp8", "bfp12", "bfp16"),
    }
    for name in BLOCK_FORMATS:
        found = block_format(name)
        assert found.block_size and found.scale in SCALE_FORMATS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int4/f64", 'unknown scale format "f64"'),
        ("int4/f16/30", "a multiple of 4"),
        ("int4/f16/32/1", "one is FORMAT/SCALE/BLOCK"),
        ("int44/f16", 'unknown format "int44"'),
        ("int4/f16*0", "positive, normal float32"),
    ],
)
def test_block_formats_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        block_format(text)
