# SPDX-License-Identifier: Apache-2.0
"""BitMoD: its lists, the nearest value around every middle, the choice, and what it gains (P18)."""

import numpy as np
import pytest

from qcompile.formats import Format, get
from qcompile.formats.bitmod import BITMOD, BITMOD3, BITMOD4, with_special
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec


def test_the_lists_of_the_paper() -> None:
    assert sorted(BITMOD3.values.tolist()) == [-4, -2, -1, 0, 0, 1, 2, 4]
    assert sorted(BITMOD4.values.tolist()) == [
        -12,
        -8,
        -6,
        -4,
        -3,
        -2,
        -1,
        0,
        0,
        1,
        2,
        3,
        4,
        6,
        8,
        12,
    ]
    assert (set(BITMOD3.specials), set(BITMOD4.specials)) == ({-6, -3, 3, 6}, {-16, -10, 10, 16})
    for format in BITMOD:
        assert format.values[format.special_code] == 0  # that of −0


@pytest.mark.parametrize("format", BITMOD, ids=str)
def test_nearest_around_every_middle(format: Format) -> None:
    for special in format.specials:
        values = np.unique(with_special(format, special).values).astype(float)
        middles = (values[1:] + values[:-1]) / 2
        for shift, wanted in ((-1e-3, values[:-1]), (1e-3, values[1:])):
            codes = quantize(middles + shift, 1, special, format)
            np.testing.assert_array_equal(dequantize(codes, 1, special, format), wanted)
        codes = quantize([-99.0, 99.0, -np.inf, np.inf], 1, special, format)
        ends = values[[0, -1, 0, -1]]
        np.testing.assert_array_equal(dequantize(codes, 1, special, format), ends)


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("format", BITMOD, ids=str)
def test_the_choice_is_the_best_of_all_four(format: Format, method: str) -> None:
    groups = np.random.default_rng(1).standard_t(3, (200, 32)).astype(np.float32)
    groups[7] = 0
    spec = QuantSpec(format, "block", 1, 32)
    found = code_weight(groups, spec, method)
    got = np.square(found.decode() - groups).sum(1)
    every = []
    for value in format.specials:
        fixed = QuantSpec(with_special(format, value), "block", 1, 32)
        real = code_weight(groups, fixed, method).decode()
        every.append(np.square(real - groups).sum(1))
    np.testing.assert_allclose(got, np.min(every, axis=0), rtol=1e-5, atol=1e-12)
    assert found.zero_point is not None
    assert set(np.unique(found.zero_point).tolist()) == set(format.specials)


def relative_error(groups: np.ndarray, decoded: np.ndarray) -> float:
    return float(((groups - decoded) ** 2).sum() / (groups**2).sum())


def bitmod_error(groups: np.ndarray, format: Format) -> float:
    found = code_weight(groups.astype(np.float32), QuantSpec(format, "block", 1, 128), "minmax")
    return relative_error(groups, found.decode())


def asymmetric_error(groups: np.ndarray, bits: int) -> float:
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    scale = (high - low) / (2**bits - 1)
    point = np.rint(-low / scale)
    codes = quantize(groups, scale, point, get(f"uint{bits}"))
    return relative_error(groups, (codes - point) * scale)


def test_errors_of_gaussian_groups() -> None:
    """Groups of 128: less error than asymmetric integers of as many bits, and than plain FP4."""
    groups = np.random.default_rng(0).standard_normal((4000, 128))
    three, four = bitmod_error(groups, BITMOD3), bitmod_error(groups, BITMOD4)
    scale = np.abs(groups).max(axis=1, keepdims=True) / 12
    fp4 = relative_error(
        groups, get("e2m1").values[quantize(groups, scale, 0, get("e2m1"))] * scale
    )
    assert three < asymmetric_error(groups, 3)
    assert four < asymmetric_error(groups, 4) < fp4
    measured = [three, asymmetric_error(groups, 3), four, asymmetric_error(groups, 4), fp4]
    assert measured == pytest.approx([0.0381, 0.0467, 0.00963, 0.01017, 0.01191], rel=0.01)


def test_a_weight_without_special_values_is_refused() -> None:
    with pytest.raises(ValueError, match="bitmod4 needs special values"):
        CodedWeight(np.zeros((1, 4), np.int16), np.ones((1, 1), np.float32), None, BITMOD4)
