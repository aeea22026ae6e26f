# SPDX-License-Identifier: Apache-2.0
"""The growing histogram equals one NumPy histogram over all the data, whatever the batches."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.observers.histogram import MAX_BINS, Histogram


def counted(batches: list[NDArray]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def streams() -> dict[str, list[NDArray]]:
    """Batches whose range grows, shrinks, jumps, changes its sign, and stays the same."""
    rng = np.random.default_rng(5)
    normal = [rng.standard_normal((7, 50)).astype(np.float32) for _ in range(6)]
    return {
        "normal": normal,
        "growing": [x * np.float32(4.0**i) for i, x in enumerate(normal)],
        "shrinking": [x * np.float32(4.0**-i) for i, x in enumerate(normal)],
        "relu": [np.maximum(x, 0) for x in normal],
        "signs": [np.abs(normal[0]), -np.abs(normal[1]) * 100],
        "far from 0": [x + 1000 for x in normal],
        "jump": [np.zeros(5, np.float32), np.float32([1e-44]), np.float32([3e38, -1])],
        "constant": [np.full(9, 1e30, np.float32)],
        "one sample": [np.float32([-0.3])],
        "tiny below 0": [np.float32([-1e-45]), np.float32([1000])],
        "with gaps": [np.float32([]), np.float32([np.nan, 3]), np.float32([np.inf, -2])],
    }


@pytest.mark.parametrize("name", streams())
def test_equals_one_histogram_of_all_data(name: str) -> None:
    batches = streams()[name]
    found = counted(batches)
    every = np.concatenate([b.ravel() for b in batches]).astype(np.float64)
    every = every[np.isfinite(every)]
    expected = np.histogram(every, np.r_[found.edges[:-1], np.nextafter(found.edges[-1], -np.inf)])
    np.testing.assert_array_equal(found.counts, expected[0])
    assert found.counts.sum() == every.size
    assert found.range() == (every.min(), every.max())
    assert found.num_zeros == (every == 0).sum()
    used = np.floor(max(every.max(), 0) / found.width) - np.floor(min(every.min(), 0) / found.width)
    assert used < MAX_BINS
    finer = found.width / 2
    needed = np.floor(max(every.max(), 0) / finer) - np.floor(min(every.min(), 0) / finer)
    assert needed >= MAX_BINS or found.width == 2.0**-149


@pytest.mark.parametrize("name", streams())
def test_order_and_size_of_batches_do_not_matter(name: str) -> None:
    batches = streams()[name]
    flat = np.concatenate([b.ravel() for b in batches])
    a, b, c = counted(batches), counted(batches[::-1]), counted([flat])
    for other in (b, c):
        assert (other.first, other.width) == (a.first, a.width)
        np.testing.assert_array_equal(other.counts, a.counts)
        for share in (0.0, 0.001, 0.05):
            assert other.inner_range(share) == a.inner_range(share)


@pytest.mark.parametrize("share", [0.0, 5e-5, 0.01, 0.1])
@pytest.mark.parametrize("name", ["normal", "growing", "relu", "signs", "far from 0"])
def test_inner_range_is_within_a_bin_of_the_quantiles(name: str, share: float) -> None:
    batches = streams()[name]
    found, every = counted(batches), np.concatenate([b.ravel() for b in batches])
    low, high = found.inner_range(share)
    ordered = np.sort(every.astype(np.float64))
    below, above = int(share * every.size), int(np.ceil((1 - share) * every.size)) - 1
    exact_low, exact_high = ordered[below], ordered[above]
    assert exact_low - found.width <= low <= exact_low
    assert exact_high <= high <= exact_high + found.width


def test_memory_is_bounded() -> None:
    histogram = Histogram()
    for exponent in range(-120, 120, 3):
        histogram.update(np.float32([2.0**exponent, -(2.0**exponent)]))
        assert len(histogram.counts) <= MAX_BINS


def test_a_lost_value_is_found() -> None:
    batches = streams()["normal"]
    whole, short = counted(batches), counted([*batches[:-1], batches[-1].ravel()[1:]])
    assert not np.array_equal(whole.counts, short.counts)
