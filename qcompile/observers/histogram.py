# SPDX-License-Identifier: Apache-2.0
"""Histogram: counts of a stream of values, in bounded memory, whatever the order of the batches.

Bins are [i·w, (i + 1)·w) with a power of two w, and the bins between 0 and the extremes number at
most MAX_BINS. A wider range doubles w: then two bins are one, exactly. So w and the counts depend
on the values only, and equal those of one histogram over all the data.
"""

import numpy as np
from numpy.typing import NDArray

MAX_BINS = 8192  # more than 4094 are used, 16 for each of the 255 steps of a code
_SMALLEST_EXPONENT = -149  # of the smallest float32 above 0
_PIECE = 1 << 18  # values counted at once, so that a batch needs little beside itself


class Histogram:
    """Counts of finite values.

    counts: int64 [bins], the first of them bin number `first`. low, high: the extremes, exact.
    num_zeros: the exact zeros among the values of bin 0.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.num_zeros = 0
        self.counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self.first = 0
        self._exponent = _SMALLEST_EXPONENT

    @property
    def width(self) -> float:
        """Of one bin."""
        return 2.0**self._exponent

    @property
    def edges(self) -> NDArray[np.float64]:
        """Float64 [bins + 1]."""
        return np.arange(self.first, self.first + len(self.counts) + 1, dtype=float) * self.width

    def update(self, x: NDArray[np.float32]) -> None:
        """Count one batch; what is not finite is left out."""
        finite = (x if np.isfinite(x).all() else x[np.isfinite(x)]).ravel()
        if not finite.size:
            return
        self.low = min(self.low, float(finite.min()))
        self.high = max(self.high, float(finite.max()))
        self._widen()
        for start in range(0, finite.size, _PIECE):
            piece = finite[start : start + _PIECE].astype(np.float64)
            self.num_zeros += int((piece == 0).sum())
            # Division by a power of two is exact, so that a value's bin is the true one.
            bins = np.floor(piece / self.width).astype(np.int64)
            self._cover(int(bins.min()), int(bins.max()))
            self.counts += np.bincount(bins - self.first, minlength=len(self.counts))

    def range(self) -> tuple[float, float]:
        """The extremes; (0, 0) where nothing finite was seen."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)

    def inner_range(self, outside: float) -> tuple[float, float]:
        """The range without the share `outside` of the values on either side.

        Each end is the outer edge of the bin in which the quantile lies: less than a bin wide.
        """
        if not len(self.counts):
            return 0.0, 0.0
        sums = np.cumsum(self.counts)
        least = int(np.searchsorted(sums, outside * sums[-1], side="right"))
        greatest = int(np.searchsorted(sums, (1 - outside) * sums[-1], side="left"))
        last = len(sums) - 1
        low, high = self.edges[min(least, last)], self.edges[min(greatest, last) + 1]
        return max(float(low), self.low), min(float(high), self.high)

    def _widen(self) -> None:
        """Double the width until the bins between 0 and the extremes number at most MAX_BINS."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        exponent = max(int(np.frexp((high - low) / MAX_BINS)[1]) - 1, self._exponent)
        while np.floor(high / 2.0**exponent) - np.floor(low / 2.0**exponent) >= MAX_BINS:
            exponent += 1
        steps, self._exponent = exponent - self._exponent, exponent
        if steps and len(self.counts):
            # After 62 doublings every bin is bin 0 or −1.
            bins = (self.first + np.arange(len(self.counts))) >> min(steps, 62)
            self.first = int(bins[0])
            merged = np.zeros(int(bins[-1]) - self.first + 1, np.int64)
            np.add.at(merged, bins - self.first, self.counts)
            self.counts = merged

    def _cover(self, least: int, greatest: int) -> None:
        """Add empty bins until there is one for every number from least to greatest."""
        if not len(self.counts):
            self.first = least
        before = max(self.first - least, 0)
        after = max(greatest - self.first - len(self.counts) + 1, 0)
        self.counts = np.pad(self.counts, (before, after))
        self.first -= before
