# SPDX-License-Identifier: Apache-2.0
"""Diagonal transforms between products: x / s on one side, W · s on the other (SmoothQuant).

s = max|x|^α ÷ max|w|^(1 − α) of each channel (Xiao et al. 2023, equation 4): what is too uneven to
be quantized in the activations moves into the weights, and back. Unlike there the scales go into
the products that write x, not into a norm, and α is chosen for every edge by the error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SPREAD = 2.0**12  # s lies within this factor of 1


@dataclass(frozen=True)
class Scaling:
    """s [block], positive; longer axes are scaled block by block."""

    scales: tuple[float, ...]
    alpha: float

    @classmethod
    def of(cls, x_max: NDArray, w_max: NDArray, alpha: float) -> "Scaling":
        """From the largest |x| and |w| [block] of every channel; channels without either stay.

        >>> Scaling.of(np.array([4.0, 1.0]), np.array([1.0, 4.0]), 0.5).scales
        (2.0, 0.5)
        """
        known = (x_max > 0) & (w_max > 0)
        s = np.ones(len(x_max))
        s[known] = np.exp(alpha * np.log(x_max[known]) - (1 - alpha) * np.log(w_max[known]))
        if known.any():
            s[known] /= np.exp(np.log(s[known]).mean())
        return cls(tuple(np.clip(s, 1 / _SPREAD, _SPREAD).tolist()), alpha)

    @property
    def text(self) -> str:
        """For people.

        >>> Scaling((1.0,), 0.3).text
        'scales, α = 0.3'
        """
        return f"scales, α = {self.alpha:g}"

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """x / s over the last axis, float64."""
        wide = x.astype(np.float64).reshape(-1, len(self.scales))
        return (wide / np.array(self.scales)).reshape(x.shape)

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """W · s over the last axis, float64."""
        wide = weight.astype(np.float64).reshape(-1, len(self.scales))
        return (wide * np.array(self.scales)).reshape(weight.shape)


@dataclass(frozen=True)
class Moving:
    """x' = (x + shifts) / scales of each channel [block]: their ranges become alike.

    alpha: 0, only the centres do; 1, the widths too, as in RepQ-ViT (Li et al. 2023, with r1 =
    scales and s · r2 = shifts). clip: the percentile of the ranges (LRP-QViT).
    """

    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    alpha: float
    clip: float

    @classmethod
    def of(cls, x: NDArray, alpha: float, clip: float) -> "Moving":
        """From rows x [num, block]; a channel of one value is not scaled.

        >>> x = np.array([[0.0, 10.0], [2.0, 18.0]])
        >>> Moving.of(x, 1.0, 100.0).times(x).tolist()
        [[3.125, 3.125], [8.125, 8.125]]
        """
        low, high = np.percentile(x.astype(np.float64), [100 - clip, clip], axis=0)
        width, centre = high - low, (high + low) / 2
        is_wide = width > 0
        r = np.ones(len(width))
        r[is_wide] = (width[is_wide] / width[is_wide].mean()) ** alpha
        r = np.clip(r, 1 / _SPREAD, _SPREAD)
        t = (centre / r).mean() * r - centre
        return cls(tuple(r.tolist()), tuple(t.tolist()), alpha, clip)

    @property
    def text(self) -> str:
        """For people."""
        return f"scales and shifts, α = {self.alpha:g}, clipped at {self.clip:g} %"

    @property
    def shift(self) -> NDArray[np.float64]:
        """t [block]."""
        return np.array(self.shifts)

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """(x + t) / r over the last axis, float64."""
        return np.asarray((x.astype(np.float64) + self.shift) / np.array(self.scales))

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """W · r; what W t adds goes into the bias."""
        return np.asarray(weight.astype(np.float64) * np.array(self.scales))
