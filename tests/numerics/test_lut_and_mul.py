# SPDX-License-Identifier: Apache-2.0
"""Tables, products of codes, float outputs of static products: N16, N25, N26, against loops."""

import numpy as np
import pytest

from qcompile.numerics.lut import CODES, qlut, reals_of_codes, table_of
from qcompile.numerics.mul import qmul
from qcompile.numerics.requantize import scale_sum
from tests.numerics import loops


def test_table_by_loops() -> None:  # N25
    scale, zero_point, y_scale, y_zero_point = 0.037, 90, 0.0171, 3
    reals = np.tanh(reals_of_codes(scale, zero_point))
    table = table_of(reals, y_scale, y_zero_point, 2, 60)
    for code in range(256):
        real = np.tanh(np.float32(np.float32(code - zero_point) * np.float32(scale)))
        ratio = np.float32(real) / np.float32(y_scale)
        expected = loops.round_half_even(float(ratio)) + y_zero_point
        assert table[code] == min(max(expected, 2), 60)


def test_the_same_scale_is_the_identity() -> None:  # N25
    for scale, zero_point in ((0.1, 0), (1 / 3, 255), (2.0**-120, 128)):
        np.testing.assert_array_equal(
            table_of(reals_of_codes(scale, zero_point), scale, zero_point), CODES
        )
    assert (table_of(reals_of_codes(0.1, 0), 0.1, 1) != CODES).any()


def test_nan_and_infinity_in_a_table() -> None:  # N24, N25
    reals = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert table_of(reals, 0.5, 7, 1, 250).tolist() == [7, 250, 1]


def test_lut() -> None:  # N25
    table = np.random.default_rng(0).permutation(256).astype(np.uint8)
    x = np.random.default_rng(1).integers(0, 256, (3, 5)).astype(np.uint8)
    assert [table[c] for c in x.ravel()] == qlut(x, table).ravel().tolist()


def test_mul_by_loops() -> None:  # N26
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 1, 50)).astype(np.uint8)
    b = rng.integers(0, 256, (4, 1)).astype(np.uint8)
    multiplier = np.float32(0.00731)
    codes = qmul(a, b, float(multiplier), 120, 3, 30, 20, 240)
    assert codes.shape == (3, 4, 50)
    for i, j, k in np.ndindex(codes.shape):
        product = np.float32((int(a[i, 0, k]) - 120) * (int(b[j, 0]) - 3))
        code = loops.round_half_even(float(np.float32(product * multiplier))) + 30
        assert codes[i, j, k] == min(max(code, 20), 240)


def test_mul_ties_go_to_even() -> None:  # N26
    a, b = np.uint8([1, 3, 5]), np.uint8([1])
    assert qmul(a, b, 0.5, 0, 0, 0).tolist() == [0, 2, 2]


@pytest.mark.parametrize("clip", [(-np.inf, np.inf), (-1.5, 2.0)])
def test_scaled_sum_by_loops(clip: tuple[float, float]) -> None:  # N16
    rng = np.random.default_rng(2)
    acc = rng.integers(-(2**30), 2**30, (5, 3))
    acc[0] = 2**31 - 1, -(2**31), 0
    bias = np.array([2**31 - 1, -(2**31) + 1, 17], np.int32)
    multiplier = np.array([1e-9, 3.3e-9, 7.7e-10], np.float32)
    found = scale_sum(acc, bias, multiplier, clip)
    assert found.dtype == np.float32
    for m, n in np.ndindex(found.shape):
        total = min(max(int(acc[m, n]) + int(bias[n]), -(2**31)), 2**31 - 1)
        real = np.float32(np.float32(total) * multiplier[n])
        assert found[m, n] == min(max(real, np.float32(clip[0])), np.float32(clip[1]))
