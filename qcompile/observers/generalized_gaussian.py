# SPDX-License-Identifier: Apache-2.0
"""The generalized Gaussian of a weight: its shape, its entropy, and the best scale of a format.

f(x) = β / (2 α Γ(1/β)) · exp(−(|x| / α)^β); β = 2 is the normal, 1 the Laplace density. β is found
by matching E[x²] / E[|x|]² = Γ(1/β) Γ(3/β) / Γ(2/β)² (Mallat 1989), as in the papers about
generalized-Gaussian priors of weights (BackSlash; RF8, the 8-bit float with the bias that fits α
and β). No layout of RF8 is published: `rf8` is E4M3 with all codes finite, and
`weight_scale_method: ggd` chooses its bias, a real number, which is the scale. It serves any
symmetric format.

With values v of a format, s the scale, and borders in the middles between neighbours, the expected
squared error is a sum of partial moments, which the incomplete gamma function gives:

    E(s) = Σ_v ∫ (s v − x)² f(x) dx over what falls to v
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammainc, gammaln

from qcompile.formats import Format

Real = NDArray[np.float64]
_LEAST, _MOST = 0.1, 16.0  # of β; at 16 the density is flat to its ends
_COARSE = np.geomspace(1 / 64, 64, 49)  # of the largest value, in deviations
_PIECE = 1 << 20


@dataclass(frozen=True)
class GeneralizedGaussian:
    """alpha: the width; beta: the shape."""

    alpha: float
    beta: float

    @classmethod
    def of_moments(cls, absolute: float, square: float) -> "GeneralizedGaussian":
        """The density with this E|x| > 0 and E[x²].

        >>> found = GeneralizedGaussian.of_moments((2 / np.pi) ** 0.5, 1.0)
        >>> round(found.alpha, 6), round(found.beta, 6)
        (1.414214, 2.0)
        """
        beta = shape_of(square / absolute**2)
        return cls(absolute * exp(gammaln(1 / beta) - gammaln(2 / beta)), beta)

    @property
    def entropy(self) -> float:
        """Differential entropy in bits, 1/β + ln(2 α Γ(1/β) / β) nats.

        >>> round(GeneralizedGaussian(2**0.5, 2.0).entropy, 3)  # log2(2πe) / 2
        2.047
        """
        nats = 1 / self.beta + log(2 * self.alpha / self.beta) + gammaln(1 / self.beta)
        return float(nats / log(2))

    def coded_bits(self, step: float) -> float:
        """Bits a value that an entropy coder needs for multiples of the step; holds for small ones.

        >>> round(GeneralizedGaussian(2**0.5, 2.0).coded_bits(2**-6), 2)
        8.05
        """
        return max(self.entropy - log(step) / log(2), 0.0)

    def expected_error(self, scale: float, format: Format) -> float:
        """E(s) of the symmetric format."""
        levels = _levels(format) * scale
        borders = np.r_[-inf, (levels[1:] + levels[:-1]) / 2, inf]
        mass, first, second = (np.diff(self._moment(borders, power)) for power in range(3))
        return float((levels**2 * mass - 2 * levels * first + second).sum())

    def _moment(self, borders: Real, power: int) -> Real:
        """∫ x^power f(x) dx from 0 to the border; from a border below 0 to 0, negative."""
        inverse = 1 / self.beta
        whole = 0.5 * exp(gammaln((power + 1) * inverse) - gammaln(inverse)) * self.alpha**power
        share = gammainc((power + 1) * inverse, (np.abs(borders) / self.alpha) ** self.beta)
        sign = np.sign(borders) if power % 2 == 0 else 1.0
        return np.asarray(whole * sign * share, np.float64)


def ratio_of(beta: float) -> float:
    """E[x²] / E[|x|]² of a shape.

    >>> round(ratio_of(2.0), 6), round(ratio_of(1.0), 6)  # π / 2, 2
    (1.570796, 2.0)
    """
    return float(exp(gammaln(1 / beta) + gammaln(3 / beta) - 2 * gammaln(2 / beta)))


def shape_of(ratio: float) -> float:
    """β of E[x²] / E[|x|]², by bisection in 0.1 … 16."""
    low, high = _LEAST, _MOST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio_of(middle) > ratio else (low, middle)
    return (low + high) / 2


def pooled_shape(weight: NDArray[np.float32], block: int) -> float:
    """β of a weight [N, K] in blocks along K, whose sizes may differ; 2 where all of it is 0.

    The ratio is Σ E[x²] / Σ E[|x|]², sums over blocks, so a large block counts more. Blocks at the
    end that are shorter are left out, unless there are no others.
    """
    k = weight.shape[1]
    block = min(block, k)
    used = weight[:, : k // block * block] if block else weight
    square = absolute = 0.0
    step = max(1, _PIECE // max(k, 1))
    for start in range(0, len(used), step):
        part = np.abs(used[start : start + step]).reshape(-1, block).astype(np.float64)
        square += float(np.square(part).mean(1).sum())
        absolute += float(np.square(part.mean(1)).sum())
    return shape_of(square / absolute) if absolute > 0 else 2.0


@lru_cache(maxsize=256)
def best_ratio(format: Format, beta: float) -> float:
    """The scale with the least expected error, as a share of E|x|, for the symmetric format.

    >>> from qcompile.formats import get
    >>> round(best_ratio(get("binary"), 2.0), 3)  # ±E|x|
    1.0
    """
    density = GeneralizedGaussian(1.0, beta)
    absolute = exp(gammaln(2 / beta) - gammaln(1 / beta))
    deviation = exp((gammaln(3 / beta) - gammaln(1 / beta)) / 2)
    tried = _COARSE * deviation / format.absmax(symmetric=True)
    errors = [density.expected_error(float(scale), format) for scale in tried]
    best = int(np.argmin(errors))
    ends = log(tried[max(best - 1, 0)]), log(tried[min(best + 1, len(tried) - 1)])
    found = minimize_scalar(
        lambda at: density.expected_error(exp(at), format), bounds=ends, method="bounded"
    )
    return exp(found.x if found.fun < errors[best] else log(tried[best])) / absolute


def _levels(format: Format) -> Real:
    """The values that symmetric quantization gives, ascending."""
    low, high = format.quantized_range(symmetric=True)
    return np.unique(format.values[low - format.code_min : high - format.code_min + 1]).astype(
        np.float64
    )
