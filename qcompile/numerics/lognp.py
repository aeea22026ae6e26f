# SPDX-License-Identifier: Apache-2.0
"""LogNP: levels that are close where values are many, by a logarithm (QuartDepth).

Shen et al. 2025 (QuartDepth, activation polishing): Φ(x) = sign(x) · log(1 + |x| / α), which is the
paper's log2(|x| + α) − log2 α but for the base, α the 95th percentile of |x|. Φ(x) is rounded
to multiples of a step and Φ⁻¹(y) = sign(y) · α (e^|y| − 1) gives the value back. Deviation: one α a
tensor in place of one a channel, as the codes of a tensor have one table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 0.95
_SHARES = np.linspace(1.0, 0.4, 25)  # of the step that reaches the largest value


@dataclass(frozen=True)
class LogNP:
    """α, the step of Φ, and the codes from low to high."""

    alpha: float
    step: float
    low: int
    high: int

    @classmethod
    def of(
        cls, values: NDArray[np.float64], counts: NDArray[np.float64], bits: int
    ) -> "LogNP | None":
        """The best step for so many of each value, by the squared error; None where all are 0."""
        size = np.abs(values)
        order = np.argsort(size)
        sums = np.cumsum(counts[order])
        if not sums.size or not size[counts > 0].max(initial=0) > 0:
            return None
        alpha = size[order][np.searchsorted(sums, PERCENTILE * sums[-1])]
        if not alpha > 0:
            return None
        is_signed = bool(values[counts > 0].min() < 0)
        high = 2 ** (bits - is_signed) - 1
        reach = float(np.log1p(size[counts > 0].max() / alpha)) / high
        tried = [cls(float(alpha), reach * s, -high if is_signed else 0, high) for s in _SHARES]
        return min(tried, key=lambda each: each.error(values, counts))

    def phi(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Φ.

        >>> polish = LogNP(2.0, 0.1, -7, 7)
        >>> polish.back(polish.phi(np.array([-6.0, 0.0, 2.0]))).round(12).tolist()
        [-6.0, 0.0, 2.0]
        """
        return np.asarray(np.sign(x) * np.log1p(np.abs(x) / self.alpha))

    def back(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Φ⁻¹."""
        return np.asarray(np.sign(y) * self.alpha * np.expm1(np.abs(y)))

    def rounded(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The nearest levels in terms of Φ."""
        codes = np.clip(np.rint(self.phi(x) / self.step), self.low, self.high)
        return self.back(codes * self.step)

    def error(self, values: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
        """Σ (rounded − value)² over so many of each value."""
        return float((counts * np.square(self.rounded(values) - values)).sum())
