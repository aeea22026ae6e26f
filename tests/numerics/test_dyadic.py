# SPDX-License-Identifier: Apache-2.0
"""N12, N17 … N19: dyadic numbers against exact rationals."""

from fractions import Fraction

import numpy as np
import pytest

from qcompile.numerics.add import qadd
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import DyadicPair, dyadic, shift_half_up
from qcompile.numerics.mul import qmul
from qcompile.numerics.pool import qpool_average
from qcompile.numerics.requantize import requantize, requantize_dyadic, rescale_sum


def half_up(value: Fraction) -> int:
    """The nearest integer; halves go up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def test_dyadic_is_the_nearest_of_31_bits() -> None:
    rng = np.random.default_rng(0)
    ratios = [*rng.uniform(0, 1, 500), *2.0 ** rng.uniform(-31, 28, 500), 0.5, 1.0, 1 - 2.0**-40]
    for ratio, m, e in zip(ratios, *dyadic(ratios), strict=True):
        assert 2**30 <= m < 2**31 and 1 <= e <= 62
        assert abs(Fraction(int(m), 2 ** int(e)) - Fraction(ratio)) <= Fraction(
            1, 2 ** (int(e) + 1)
        )


def test_f32_multipliers_are_dyadic_exactly() -> None:
    rng = np.random.default_rng(1)
    ratios = (2.0 ** rng.uniform(-38, 28, 5000)).astype(np.float32)
    for ratio, m, e in zip(ratios, *dyadic(ratios), strict=True):
        assert Fraction(int(m), 2 ** int(e)) == Fraction(float(ratio))


def test_small_ratios_keep_their_exponent() -> None:
    m, e = dyadic([2.0**-40, 2.0**-62, 2.0**-64, 0.0])
    assert m.tolist() == [2**22, 1, 0, 0] and e.tolist()[:3] == [62, 62, 62]


def test_ratios_beyond_the_exponent_are_refused() -> None:
    for ratio in (2.0**29, np.inf, np.nan):
        with pytest.raises(AssertionError):
            dyadic(ratio)


def boundary_cases() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(acc, m, e): both ends, powers of two and their neighbours, halves on both sides of 0."""
    near = np.array([-1, 0, 1])
    powers = (2 ** np.arange(31))[:, None] + near
    acc = np.unique(np.concatenate([powers.ravel(), -powers.ravel(), [-(2**31), 2**31 - 1]]))
    m = np.unique(
        np.clip(np.concatenate([powers[24:].ravel(), [0, 1, 3, 2**31 - 1]]), 0, 2**31 - 1)
    )
    grid = np.meshgrid(acc, m, [1, 2, 23, 30, 31, 32, 47, 61, 62], indexing="ij")
    return tuple(g.ravel().astype(np.int64) for g in grid)  # type: ignore[return-value]


def assert_exact(acc: np.ndarray, m: np.ndarray, e: np.ndarray) -> None:
    """Against Python's integers, which do not overflow: floor((2·acc·m + 2^e) / 2^(e+1))."""
    wide = acc.astype(object) * m.astype(object) * 2 + 2 ** e.astype(object)
    expected = wide // 2 ** (e.astype(object) + 1)
    np.testing.assert_array_equal(requantize_dyadic(acc, m, e), expected.astype(np.int64))


def test_dyadic_requantization_at_all_boundaries() -> None:
    assert_exact(*boundary_cases())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_dyadic_requantization_of_ten_million(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        acc = rng.integers(-(2**31), 2**31, 100_000)
        m = rng.integers(2**30, 2**31, 100_000)
        assert_exact(acc, m, rng.integers(1, 63, 100_000))


def test_the_check_sees_one_unit() -> None:
    with pytest.raises(AssertionError):
        acc, m, e = np.array([5]), np.array([2**30]), np.array([31])
        np.testing.assert_array_equal(
            requantize_dyadic(acc + 2, m, e), requantize_dyadic(acc, m, e)
        )


def test_codes_and_sums() -> None:
    acc = np.array([[3, -3, 1000], [5, 8, -1000]])
    pairs = np.stack(dyadic([0.5, 0.75, 0.1])).astype(np.int32)
    codes = requantize(acc, np.int32([0, 1, 0]), pairs, 10, 0, 255)
    assert codes.tolist() == [[12, 9, 110], [13, 17, 0]]
    assert rescale_sum(acc, 0, pairs, -90, 2**40).tolist() == [[2, -2, 100], [3, 6, -90]]


def test_sums_saturate() -> None:
    acc, double = np.array([2**31 - 1, -(2**31)]), np.stack(dyadic([2.0, 2.0])).astype(np.int32)
    assert rescale_sum(acc, 5, double, -(2**40), 2**40).tolist() == [2**31 - 1, -(2**31)]


def test_add_rounds_once() -> None:  # N18
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 2000)).astype(np.uint8)
    for ra, rb in np.float32([(0.37, 0.91), (0.5, -0.25), (1e-3, 1.0), (0.7, 0.0)]).tolist():
        pair = DyadicPair.of(ra, rb)
        scaled = [
            half_up(Fraction((int(x) - 128) * pair.a + (int(y) - 3) * pair.b, 2**pair.exponent))
            + 77
            for x, y in zip(a, b, strict=True)
        ]
        got = qadd(a, b, ra, rb, 128, 3, 77, 4, 250, is_dyadic=True)
        assert got.tolist() == np.clip(scaled, 4, 250).tolist()
        near = qadd(a, b, ra, rb, 128, 3, 77, 4, 250).astype(int)
        assert np.abs(near - got).max() <= 1  # N20 differs at ties alone


def test_multiply_and_pool() -> None:  # N12, N19
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 256, (2, 2000)).astype(np.uint8)
    ratio = float(np.float32(0.0123))
    products = [(int(x) - 128) * (int(y) - 3) for x, y in zip(a, b, strict=True)]
    expected = [half_up(p * Fraction(ratio)) + 100 for p in products]
    got = qmul(a, b, ratio, 128, 3, 100, is_dyadic=True)
    assert got.tolist() == np.clip(expected, 0, 255).tolist()
    x = rng.integers(0, 256, (2, 4, 4, 8)).astype(np.uint8)
    pooled = qpool_average(x, Window((4, 4)), 1.7, 9, 5, is_dyadic=True)
    m, e = (int(v) for v in dyadic(float(np.float32(1.7)) / 16))
    sums = (x.astype(int) - 9).sum((1, 2))
    codes = [half_up(Fraction(int(s) * m, 2**e)) + 5 for s in sums.ravel()]
    assert pooled.ravel().tolist() == np.clip(codes, 0, 255).tolist()


def test_shift_of_negative_halves() -> None:
    assert shift_half_up([-1, -2, -3, -4], 1).tolist() == [0, -1, -1, -2]
