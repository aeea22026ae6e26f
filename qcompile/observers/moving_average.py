# SPDX-License-Identifier: Apache-2.0
"""moving-average: the extremes of a batch, averaged over batches (Jacob et al. 2018, section 3.1).

Start with the first batch; each later one moves the range by a tenth of the way to its own extremes
(10 batches of 16 samples weigh as much as all that came before). A rare outlier widens the range
for a while only, so the result depends on the order of the data.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.observers.observer import Observer

STEP = 0.1


class MovingAverage(Observer):
    """Exponential moving averages of the batch minimum and maximum."""

    _range: tuple[float, float] | None = None

    def update(self, x: NDArray[np.float32]) -> None:
        """Move towards the extremes of the batch; a batch without finite values changes nothing."""
        finite = x if np.isfinite(x).all() else x[np.isfinite(x)]
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        if self._range is not None:
            low = self._range[0] + STEP * (low - self._range[0])
            high = self._range[1] + STEP * (high - self._range[1])
        self._range = low, high

    def range(self) -> tuple[float, float]:
        """(0, 0) where nothing finite was seen."""
        return self._range or (0.0, 0.0)
