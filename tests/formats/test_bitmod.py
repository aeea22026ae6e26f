# SPDX-License-Identifier: Apache-2.0
"""BitMoD: its lists, the nearest value around every middle, the choice, and what it gains (P18)."""

import numpy as np
import pytest

from qcompile.formats import Format, get
from qcompile.formats.bitmod import (
    BITMOD,
    BITMOD3,
    BITMOD4,
    encode,
    largest_scales,
    nearest_codes,
    values_of,
)
from qcompile.numerics.quantize import quantize
from qcompile.numerics.weight import CodedWeight


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
        values = np.sort(values_of(format, special)).astype(float)
        middles = (values[1:] + values[:-1]) / 2
        for shift, wanted in ((-1e-9, values[:-1]), (1e-9, values[1:])):
            codes = nearest_codes(middles + shift, format, special)
            np.testing.assert_array_equal(values_of(format, special)[codes], wanted)
        codes = nearest_codes(np.array([-99.0, 99.0]), format, special)
        np.testing.assert_array_equal(values_of(format, special)[codes], values[[0, -1]])


@pytest.mark.parametrize("format", BITMOD, ids=str)
def test_the_choice_is_the_best_of_all_four(format: Format) -> None:
    groups = np.random.default_rng(1).standard_t(3, (200, 32))
    groups[7] = 0
    scales = largest_scales(groups, format)
    codes, special, choice = encode(groups, format, scales)
    for g in range(len(groups)):
        errors = []
        for i, value in enumerate(format.specials):
            values = values_of(format, value) * scales[g, i]
            errors.append((np.abs(groups[g][:, None] - values).min(axis=1) ** 2).sum())
        values = values_of(format, special[g]) * scales[g, choice[g]]
        got = ((groups[g] - values[codes[g]]) ** 2).sum()
        assert format.specials[choice[g]] == special[g]
        assert got == pytest.approx(min(errors), rel=1e-12, abs=1e-12)


def relative_error(groups: np.ndarray, decoded: np.ndarray) -> float:
    return float(((groups - decoded) ** 2).sum() / (groups**2).sum())


def bitmod_error(groups: np.ndarray, format: Format) -> float:
    scales = largest_scales(groups, format)
    codes, special, choice = encode(groups, format, scales)
    scale = np.take_along_axis(scales, choice[:, None], 1)
    weight = CodedWeight(codes, scale, None, format, special=special[:, None])
    return relative_error(groups, weight.decode())


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
    with pytest.raises(ValueError, match="bitmod4 and special values do not fit"):
        CodedWeight(np.zeros((1, 4), np.int16), np.ones((1, 1), np.float32), None, BITMOD4)
