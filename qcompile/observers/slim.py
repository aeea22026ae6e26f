# SPDX-License-Identifier: Apache-2.0
"""SLiM-Quant: one scale for a whole weight, from the histogram of its magnitudes.

Mozaffari et al. 2025 (SLiM, section 3.1): of all α, what the largest code is worth, the one with
the least expected error

    E(α) = ∫₀^α f(x) (Q(x) − x)² dx + ∫_α^∞ f(x) (α − x)² dx

f the histogram of |w|, here of the bins' middles; ten α first, then every bin between the two
neighbours of the best. The number of bins is numel / 1000, in 512 … 20,000. Deviation: with formats
that have no integer levels Q goes to the nearest entry of the table.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.quantize import dequantize, quantize

_BINS = (512, 20_000)
_COARSE = 10
_PIECE = 1 << 22  # magnitudes counted at once


def slim_range(weight: NDArray[np.float32], format: Format) -> float:
    """α of a weight of any shape; 0 where it is 0 everywhere.

    >>> from qcompile.formats import get
    >>> slim_range(np.zeros(4, np.float32), get("int4"))
    0.0
    """
    flat = weight.ravel()
    highest = float(np.abs(flat).max(initial=0))
    if not highest > 0 or not np.isfinite(highest):
        return 0.0
    bins = int(np.clip(flat.size // 1000, *_BINS))
    counts = np.zeros(bins)
    for start in range(0, flat.size, _PIECE):
        part = np.abs(flat[start : start + _PIECE])
        counts += np.histogram(part, bins, (0, highest))[0]
    middles = np.asarray((np.arange(bins) + 0.5) * (highest / bins), np.float64)

    def least(tried: NDArray[np.int64]) -> int:
        errors = [expected_error(middles, counts, highest * n / bins, format) for n in tried]
        return int(np.argmin(errors))

    coarse = np.unique(np.linspace(0, bins, _COARSE + 1)[1:].astype(np.int64))
    best = least(coarse)
    low = int(coarse[best - 1]) if best else 1
    fine = np.arange(low, int(coarse[min(best + 1, len(coarse) - 1)]) + 1)
    return highest * float(fine[least(fine)]) / bins


def expected_error(
    middles: NDArray[np.float64], counts: NDArray[np.float64], alpha: float, format: Format
) -> float:
    """E(α) times the number of weights."""
    real, scale = middles.astype(np.float32), np.float32(alpha / format.absmax(symmetric=True))
    rounded = dequantize(quantize(real, scale, 0, format), scale, 0, format)
    return float((counts * np.square(rounded - middles)).sum())
