# SPDX-License-Identifier: Apache-2.0
"""Crest factors, kurtosis, shape and histogram against plain NumPy, for slices of any size."""

import numpy as np
import pytest

from qcompile import memory
from qcompile.distribution import BINS, block_moments, distribution_of
from qcompile.observers.generalized_gaussian import GeneralizedGaussian


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (3, 32), (200, 33), (130, 97)])
@pytest.mark.parametrize("slice_elements", [1, 1 << 22])
def test_figures_are_those_of_the_whole(
    shape: tuple[int, int], slice_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_SLICE_ELEMENTS", slice_elements)
    rows = np.random.default_rng(shape[1]).standard_t(4, shape).astype(np.float32) + 1
    found, x = distribution_of(rows), rows.astype(np.float64)
    rms = np.sqrt(np.square(x).mean())
    assert found.rms == pytest.approx(rms)
    assert found.crest == pytest.approx(np.abs(x).max() / rms)
    if x.size > 1:
        assert found.kurtosis == pytest.approx(((x - x.mean()) ** 4).mean() / x.var() ** 2)
    density = GeneralizedGaussian.of_moments(np.abs(x).mean(), np.square(x).mean())
    assert found.beta == pytest.approx(density.beta)
    assert found.coded_bits == pytest.approx(density.coded_bits(np.abs(x).max() / 127))
    assert sum(found.histogram) == rows.size and len(found.histogram) == BINS
    for size, crest in ((32, found.crest_32), (16, found.crest_16)):
        blocks = [row[i : i + size] for row in x for i in range(0, shape[1], size)]
        crests = [np.abs(b).max() / np.sqrt(np.square(b).mean()) for b in blocks]
        assert crest == pytest.approx(np.median(crests), rel=1e-6)


def test_what_is_constant_or_zero_has_no_kurtosis() -> None:
    assert distribution_of(np.full((2, 5), 3, np.float32)).kurtosis is None
    zeros = distribution_of(np.zeros((2, 5), np.float32))
    assert (zeros.rms, zeros.crest, zeros.crest_32, zeros.beta) == (0.0, None, None, None)
    assert sum(zeros.histogram) == 10


def test_blocks_of_zeros_do_not_count() -> None:
    rows = np.zeros((1, 64), np.float32)
    rows[0, 32:] = 1
    assert distribution_of(rows).crest_32 == 1.0
    most, energy, count = block_moments(rows[:, :40], 32)
    assert (most.tolist(), energy.tolist(), count.tolist()) == ([[0, 1]], [[0, 8]], [32, 8])


def test_the_histogram_reaches_four_rms_and_keeps_the_tails() -> None:
    rows = np.zeros((1, 100), np.float32)
    rows[0, :2] = 7, -7  # rms is 1: both are beyond
    found = distribution_of(rows).histogram
    assert (found[0], found[BINS // 2], found[-1]) == (1, 98, 1)
