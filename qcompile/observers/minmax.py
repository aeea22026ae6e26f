# SPDX-License-Identifier: Apache-2.0
"""minmax: the range that was seen; nothing is clipped."""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.observers.observer import Observer


class MinMax(Observer):
    """Running minimum and maximum of the finite values."""

    def __init__(self, format: Format) -> None:
        super().__init__(format)
        self.low, self.high = np.inf, -np.inf

    def update(self, x: NDArray[np.float32]) -> None:
        """Widen the range."""
        finite = x if np.isfinite(x).all() else x[np.isfinite(x)]
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))

    def range(self) -> tuple[float, float]:
        """(0, 0) where nothing finite was seen."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
