# SPDX-License-Identifier: Apache-2.0
"""LogNP: its inverse, and its error against that of uniform levels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.numerics.lognp import LogNP

BITS = 4


def uniform(x: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Symmetric codes of four bits."""
    return np.clip(np.rint(x / step), -7, 7) * step


def relative(x: NDArray[np.float64], rounded: NDArray[np.float64]) -> float:
    return float(np.square(rounded - x).sum() / np.square(x).sum())


@pytest.mark.parametrize("alpha", [2.0**-10, 0.3, 50.0])
def test_the_inverse_gives_the_value_back(alpha: float) -> None:
    polish = LogNP(alpha, 0.1, -7, 7)
    x = np.concatenate([-np.geomspace(1e-6, 1e6, 200), [0.0], np.geomspace(1e-6, 1e6, 200)])
    # Two roundings of log1p and expm1: of y, whose error grows by x + α, and of the result.
    bound = 4 * 2.0**-52 * (np.abs(x) + alpha) * (1 + np.abs(polish.phi(x)))
    assert (np.abs(polish.back(polish.phi(x)) - x) <= bound).all()
    assert (np.abs(polish.back(1.001 * polish.phi(x)) - x) > bound)[x != 0].all()


def test_levels_are_their_own_nearest() -> None:
    polish = LogNP(0.5, 0.25, 0, 15)
    levels = polish.back(np.arange(16) * polish.step)
    assert np.array_equal(polish.rounded(levels), levels)
    assert np.array_equal(polish.rounded(np.array([-3.0, 1e9])), levels[[0, -1]])


def test_heavy_tails_gain() -> None:
    """The check of the paper, against the extremes and against the best step."""
    x = np.random.default_rng(0).standard_t(3, 20000)
    found = LogNP.of(x, np.ones(len(x)), BITS)
    assert found is not None
    assert (found.low, found.high) == (-7, 7)
    error = relative(x, found.rounded(x))
    top = np.abs(x).max()
    assert error < 0.3 * relative(x, uniform(x, top / 7))
    steps = top / 7 * np.geomspace(0.02, 1, 200)
    assert error < min(relative(x, uniform(x, step)) for step in steps)


def test_alpha_is_the_percentile_and_no_other_step_is_better() -> None:
    x = np.abs(np.random.default_rng(1).standard_normal(10001))
    found = LogNP.of(x, np.ones(len(x)), BITS)
    assert found is not None
    assert (found.low, found.high) == (0, 15)
    assert abs((x <= found.alpha).mean() - 0.95) < 2 / len(x)
    counted = LogNP.of(x, np.full(len(x), 3.0), BITS)
    assert counted == found
    for share in np.geomspace(0.35, 1.3, 40):
        other = LogNP(found.alpha, found.step * share, 0, 15)
        assert found.error(x, np.ones(len(x))) < 1.02 * other.error(x, np.ones(len(x)))


@pytest.mark.parametrize("x", [[], [0.0, 0.0], [0.0] * 99 + [1.0]])
def test_nothing_where_there_is_no_percentile(x: list[float]) -> None:
    values = np.array(x, np.float64)
    assert LogNP.of(values, np.ones(len(values)), BITS) is None
