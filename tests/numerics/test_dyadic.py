# SPDX-License-Identifier: Apache-2.0
"""N40 and N12: from a scale to m / 2^e, and requantization against exact rationals."""

import math
from fractions import Fraction

import numpy as np
import pytest

from qcompile.numerics.dyadic import dyadic
from qcompile.numerics.integer import Dyadic
from qcompile.numerics.requantize import requantize_dyadic

EDGE_SCALES = [
    *(2.0**k for k in range(-70, 29)),
    *(2.0**k * (1 - 2.0**-53) for k in range(-70, 29)),
    *(2.0**k * (1 + 2.0**-31) for k in range(-70, 29)),
    *(1 / 3, 0.1, 0.7, 1 - 2.0**-32, 2.0**-32 * 1.5, 5e-324, 2.0**29 * (1 - 2.0**-53)),
]


def error(scale: float) -> tuple[Fraction, Fraction]:
    """The distance of the dyadic number from the scale, and its bound in N40."""
    m, e = (int(v) for v in dyadic(scale))
    exact = Fraction(scale)
    bound = exact / 2**31 if scale >= 2.0**-32 else Fraction(1, 2**63)
    return abs(Fraction(m, 2**e) - exact), bound


def test_the_error_of_a_scale_is_within_its_bound() -> None:  # N40
    rng = np.random.default_rng(0)
    for scale in [*EDGE_SCALES, *np.exp(rng.uniform(-45, 20, 20_000))]:
        distance, bound = error(float(scale))
        assert distance <= bound, scale


def test_multipliers_and_exponents_are_in_range() -> None:  # N40
    m, e = dyadic(np.array(EDGE_SCALES))
    assert m.dtype == e.dtype == np.int32
    assert m.min() >= 0 and e.min() >= 1 and e.max() <= 62
    normal = np.array(EDGE_SCALES) >= 2.0**-32
    assert (m[normal] >= 2**30).all()


def test_the_bound_is_sharp() -> None:  # N40
    """One unit more in the multiplier is outside of it."""
    m, e = (int(v) for v in dyadic(0.75))
    assert abs(Fraction(m + 1, 2**e) - Fraction(3, 4)) > Fraction(3, 4) / 2**31


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**29, math.inf, math.nan])
def test_other_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="not above 0 and below 2\\^29"):
        dyadic([0.5, scale])


def half_up(acc: int, m: int, e: int) -> int:
    """⌊acc · m / 2^e + 1/2⌋ in rationals (N12)."""
    return math.floor(Fraction(acc * m, 2**e) + Fraction(1, 2))


def edge_cases() -> np.ndarray:
    """All combinations of extreme sums, multipliers and exponents, ties among them: [3, n]."""
    near = [2**k + d for k in (0, 1, 7, 15, 30) for d in (-1, 0, 1)]
    accs = sorted({0, 2**31 - 1, *near, *(-v for v in near), -(2**31) + 1})
    factors = [0, 1, 2, 3, 2**15, 2**30 - 1, 2**30, 2**30 + 1, 2**31 - 2, 2**31 - 1]
    grid = np.array(np.meshgrid(accs, factors, range(1, 63)))
    return grid.reshape(3, -1)


def test_every_edge_is_the_exact_rational() -> None:  # N12
    grid = edge_cases()
    expected = [half_up(*(int(v) for v in case)) for case in grid.T]
    assert requantize_dyadic(*grid).tolist() == expected


def random_cases(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of all magnitudes by scales of which every fourth makes ties."""
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**31) + 1, 2**31, count) >> rng.integers(0, 31, count)
    m = rng.integers(0, 2**31, count)
    m[::4] = 1 << rng.integers(0, 31, len(m[::4]))
    return acc, m, rng.integers(1, 63, count)


def mismatches(acc: np.ndarray, m: np.ndarray, e: np.ndarray) -> int:
    """Requantized values that are not the exact ones: ⌊(2 · acc · m + 2^e) / 2^(e+1)⌋."""
    got = requantize_dyadic(acc, m, e).tolist()
    cases = zip(acc.tolist(), m.tolist(), e.tolist(), got, strict=True)
    return sum((2 * a * b + (1 << c)) // (1 << (c + 1)) != g for a, b, c, g in cases)


def test_random_sums_are_the_exact_rational() -> None:  # N12
    acc, m, e = random_cases(0, 20_000)
    expected = [half_up(int(a), int(b), int(c)) for a, b, c in zip(acc, m, e, strict=True)]
    assert requantize_dyadic(acc, m, e).tolist() == expected


@pytest.mark.slow
def test_ten_million_sums_have_no_mismatch() -> None:  # N12
    assert sum(mismatches(*random_cases(seed, 10**6)) for seed in range(10)) == 0


def test_a_mismatch_is_found() -> None:
    """Half-even differs at ties, and truncation everywhere."""
    acc, m, e = (np.array(v) for v in ([1, 5, -1, 7], [1 << 30] * 4, [31] * 4))
    assert mismatches(acc, m, e) == 0
    rounded = np.rint(acc * m / 2.0**31).astype(np.int64)
    assert (rounded != requantize_dyadic(acc, m, e)).sum() == 3 - 1


def test_a_scale_applies_by_channel() -> None:
    by = Dyadic(np.array([1 << 30, 3], np.int32), np.array([31, 1], np.int32))
    assert by.apply(np.array([[3, 3], [-3, -3]])).tolist() == [[2, 5], [-1, -4]]
