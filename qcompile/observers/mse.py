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
from qcompile.observers.minmax import MinMax
from qcompile.observers.observer import Observer

_BINS = 4096
_SHRINKS = np.linspace(1.0, 0.2, 81)


class MeanSquaredError(Observer):
    """First pass: the range. Second pass: the histogram over it."""

    num_passes = 2

    def __init__(self, format: Format) -> None:
        super().__init__(format)
        self._minmax = MinMax(format)
        self._counts: NDArray[np.int64] | None = None

    def update(self, x: NDArray[np.float32]) -> None:
        """Widen the range, or count."""
        if self._counts is None:
            self._minmax.update(x)
            return
        self._counts += np.histogram(x[np.isfinite(x)], bins=_BINS, range=self._span())[0]

    def next_pass(self) -> None:
        """From range to counts."""
        self._counts = np.zeros(_BINS, np.int64)

    def _span(self) -> tuple[float, float]:
        low, high = self._minmax.range()
        return (low, high) if high > low else (low, low + 1.0)

    def range(self) -> tuple[float, float]:
        """The best of 81 shrunk ranges."""
        low, high = self._minmax.range()
        if self._counts is None or high <= low:
            return low, high
        edges = np.linspace(*self._span(), _BINS + 1)
        centres = ((edges[1:] + edges[:-1]) / 2).astype(np.float32)
        errors = []
        for shrink in _SHRINKS:
            params = params_of_range(low * shrink, high * shrink, self.format)
            scale, zero_point = params.scale, params.zero_point
            codes = quantize(centres, scale, zero_point, self.format, symmetric=False)
            real = dequantize(codes, scale, zero_point, self.format)
            errors.append(float((self._counts * (real - centres) ** 2.0).sum()))
        best = float(_SHRINKS[int(np.argmin(errors))])
        return low * best, high * best
