# SPDX-License-Identifier: Apache-2.0
"""N11 and N12: from sums to codes."""

import numpy as np
import pytest

from qcompile.numerics.requantize import multiplier, requantize, requantize_dyadic
from tests.numerics import loops


def test_ties_go_to_even() -> None:  # N11
    acc = np.array([1, 3, 5, -1, -3], np.int64)
    assert requantize(acc, 0, np.float32(0.5), 10, 0, 255).tolist() == [10, 12, 12, 10, 8]


def test_bias_is_added_before_the_multiplier() -> None:  # N11
    codes = requantize(np.array([[10, 10]]), np.int32([4, -30]), np.float32([2, 1]), 7, 0, 255)
    assert codes.tolist() == [[35, 0]]


def test_relu_is_y_min() -> None:  # N11
    assert requantize(np.array([-5, 5]), 0, np.float32(1), 100, 100, 255).tolist() == [100, 105]


def test_the_sum_saturates_to_int32() -> None:  # N11
    acc, bias = np.array([2**31 - 1, -(2**31)]), np.int32([2**31 - 1, -(2**31 - 1)])
    scale = np.float32(2.0**-24)  # 2^31 · 2^-24 = 128; 2^32 · 2^-24 would be 256
    assert requantize(acc, bias, scale, 0, 0, 255).tolist() == [128, 0]
    assert requantize(acc, bias, scale, 200, 0, 255).tolist() == [255, 72]


def test_one_f32_product() -> None:  # N11
    rng = np.random.default_rng(0)
    acc = rng.integers(-(2**26), 2**26, 4000)
    scale = rng.uniform(1e-7, 4e-6, 4000).astype(np.float32)
    expected = [
        loops.requantize(int(a), 17, s, 128, 3, 250) for a, s in zip(acc, scale, strict=True)
    ]
    assert requantize(acc, 17, scale, 128, 3, 250).tolist() == expected


def test_f32_of_the_sum_is_rounded_first() -> None:  # N11
    # 2^24 + 1 is no f32: it becomes 2^24, so the product is a tie that goes down.
    assert requantize(np.array([2**24 + 1]), 0, np.float32(2.0**-25), 0, 0, 255).tolist() == [0]
    assert requantize(np.array([2**24 + 2]), 0, np.float32(2.0**-25), 0, 0, 255).tolist() == [1]


def test_multiplier_is_one_quotient_in_f64() -> None:  # N11
    x, w, y = 0.1, np.float32([0.3, 1e-30]), 0.7
    expected = [np.float32(0.1 * float(v) / 0.7) for v in w]
    assert multiplier(x, w, y).tolist() == [float(e) for e in expected]


@pytest.mark.parametrize("exponent", [1, 2, 15, 31, 47, 62])
def test_dyadic_is_that_of_python_integers(exponent: int) -> None:  # N12
    rng = np.random.default_rng(exponent)
    acc = np.concatenate([rng.integers(-(2**31) + 1, 2**31, 200), [2**31 - 1, -(2**31) + 1, 0]])
    m = np.concatenate([rng.integers(0, 2**31, 200), [2**31 - 1, 2**31 - 1, 2**31 - 1]])
    expected = [
        (int(a) * int(b) + (1 << (exponent - 1))) >> exponent for a, b in zip(acc, m, strict=True)
    ]
    assert requantize_dyadic(acc, m, exponent).tolist() == expected


def test_dyadic_halves_go_up() -> None:  # N12
    assert requantize_dyadic(np.array([1, -1, 3, -3]), 1, 1).tolist() == [1, 0, 2, -1]
