# SPDX-License-Identifier: Apache-2.0
"""percentile: the range that holds the given share of all values; what is outside is clipped.

Of the rest, half is left out below and half above, as for codes with a zero point (McKinstry et al.
2018 take 99.9 and 99.99 of absolute values). Ends are those of histogram bins.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.observers.histogram import Histogram
from qcompile.observers.observer import Observer


class Percentile(Observer):
    """Counts, then the quantiles of the counts."""

    def __init__(self, format: Format, percentile: float = 99.99) -> None:
        super().__init__(format)
        self._histogram = Histogram()
        self._outside = (100 - percentile) / 200

    def update(self, x: NDArray[np.float32]) -> None:
        """Count."""
        self._histogram.update(x)

    def range(self) -> tuple[float, float]:
        """(0, 0) where nothing finite was seen."""
        return self._histogram.inner_range(self._outside)
