# SPDX-License-Identifier: Apache-2.0
"""mse: the range, shrunk towards 0, whose codes have the least squared error on a histogram.

Banner et al. 2019 (ACIQ, section 3) minimise the same error for a fitted density; here the density
is the histogram.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.params import params_of_range
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers.histogram import Histogram
from qcompile.observers.observer import Observer

_SHRINKS = np.linspace(1.0, 0.2, 81)


class MeanSquaredError(Observer):
    """Counts, then the least error of 81 shrunk ranges."""

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
        edges, counts = self._histogram.edges, self._histogram.counts
        centres = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
        errors = []
        for shrink in _SHRINKS:
            params = params_of_range(low * shrink, high * shrink, self.format)
            scale, zero_point = params.scale, params.zero_point
            codes = quantize(centres, scale, zero_point, self.format, symmetric=False)
            real = dequantize(codes, scale, zero_point, self.format)
            errors.append(float((counts * (real - centres) ** 2.0).sum()))
        best = float(_SHRINKS[int(np.argmin(errors))])
        return low * best, high * best
