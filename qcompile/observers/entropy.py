# SPDX-License-Identifier: Apache-2.0
"""entropy: the range whose codes keep most of the distribution's information (Migacz 2017).

Candidates are the seen range without what is beyond ±t, for 121 thresholds t. For each, P is the
histogram with all that is outside counted into its end bins, and Q the histogram without it as
codes keep it: the counts of the bins that share a code are spread evenly over those of them that
are not empty. The candidate with the least Kullback–Leibler divergence of Q from P is taken.

Differences from Migacz, whose codes are 128 magnitudes: the bins of a code are those that the
format's codes with their zero point round to, and exact zeros, which every code keeps, count in
neither distribution (else the zeros of a Relu alone would decide).
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.params import params_of_range
from qcompile.numerics.quantize import quantize
from qcompile.observers.histogram import Histogram
from qcompile.observers.observer import Observer

# Of the greatest magnitude; below 1/16 of the bins a code of 8 bits would have less than one.
_SHARES = np.arange(128, 7, -1) / 128
# Of the probability; Q of a bin that only P fills (Migacz leaves it undefined).
_LEAST = 1e-9


class Entropy(Observer):
    """Counts, then the least divergence of 121 candidates."""

    def __init__(self, format: Format) -> None:
        super().__init__(format)
        self._histogram = Histogram()

    def update(self, x: NDArray[np.float32]) -> None:
        """Count."""
        self._histogram.update(x)

    def range(self) -> tuple[float, float]:
        """The seen range where all values are equal."""
        low, high = self._histogram.range()
        if low >= high:
            return low, high
        counts = self._histogram.counts.astype(np.float64)
        if 0 <= -self._histogram.first < len(counts):
            counts[-self._histogram.first] -= self._histogram.num_zeros
        edges = self._histogram.edges
        ranges = [_clipped(low, high, max(-low, high) * share) for share in _SHARES]
        found = [divergence(counts, edges, *ends, self.format) for ends in ranges]
        return ranges[int(np.argmin(found))]


def _clipped(low: float, high: float, threshold: float) -> tuple[float, float]:
    """The range without what is beyond ± the threshold."""
    return min(max(low, -threshold), threshold), max(min(high, threshold), -threshold)


def divergence(
    counts: NDArray[np.float64],
    edges: NDArray[np.float64],
    low: float,
    high: float,
    format: Format,
) -> float:
    """Of Q from P, in nats, for codes of low … high; infinite where no value is inside.

    counts: [bins]; edges: [bins + 1].
    """
    inside = np.flatnonzero((edges[:-1] <= max(high, 0.0)) & (edges[1:] > min(low, 0.0)))
    if not len(inside) or not counts[inside].any():
        return np.inf
    first, end = inside[0], inside[-1] + 1
    kept = counts[first:end]
    real = kept.copy()
    real[0] += counts[:first].sum()
    real[-1] += counts[end:].sum()
    params = params_of_range(low, high, format)
    centres = ((edges[first:end] + edges[first + 1 : end + 1]) / 2).astype(np.float32)
    codes = quantize(centres, params.scale, params.zero_point, format, symmetric=False)
    sums, filled = np.bincount(codes, kept), np.bincount(codes, kept > 0)
    coded = np.where(kept > 0, (sums / np.maximum(filled, 1))[codes], 0.0)
    p, q = real / real.sum(), np.maximum(coded / coded.sum(), _LEAST)
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
