# SPDX-License-Identifier: Apache-2.0
"""AdaRound: every weight goes to the level above or below it, as a whole layer's output asks.

Nagel et al. 2020 (Up or Down?, sections 3.2 and 3.3): a weight is its lower level and the share
h(V) of the step to the upper one, h(V) = clip(σ(V) (ζ − γ) + γ, 0, 1) with ζ = 1.1, γ = −0.1; V
moves by Adam against ‖f(W x) − f(Ŵ x̂)‖² + λ Σ (1 − |2 h − 1|^β), λ = 0.01, β falling from 20 to 2
after a fifth of the steps without this term. f is the layer's Relu or Clip, x̂ the input that the
quantized network before it gives.

Deviations: the squared error is divided by the variance of the outputs, so that λ means the same
for every layer; the levels are those of any grid, table formats among them; scales are those that
descent found, in place of those of least squared weight error, which lose (docs/results.md).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.formats.bitmod import with_special
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.grid import Grid
from qcompile.passes.transform.layer_rows import (
    LayerRows,
    Real32,
    Rebuilt,
    Setting,
    Steps,
    products,
)

_ZETA, _GAMMA = np.float32(1.1), np.float32(-0.1)
_LAMBDA = 0.01
_BETA = (20.0, 2.0)
_WARM = 0.2  # of the steps
_RATE = 1e-2


def adaround(
    weight: Real32, start: CodedWeight, bias: Real32 | None, rows: LayerRows, setting: Setting
) -> Rebuilt:
    """Codes of a weight [N, K] in the scales of `start`, next to their weights; the bias stays."""
    levels = Levels.of(weight, setting.grid(start))
    inputs, moved = rows.inputs(), Steps(v=inverse(levels.share))
    width = weight.shape[1]
    unit = np.float32(max(float(rows.y.var(dtype=np.float64)), 2.0**-126))
    for step in range(setting.steps):
        part = replace(rows, x=inputs, grid=None).drawn(setting.rng)
        share, slope = rectified(moved.arrays["v"])
        by_output = part.loss(products(part.x, levels.real(share), bias))[1]
        by_output *= np.float32(rows.y.shape[0] * rows.y.shape[2]) / unit  # a sum over outputs
        by_weight = (by_output.swapaxes(1, 2) @ part.x).reshape(-1, width)
        gradient = by_weight * levels.gap
        gradient += np.float32(_LAMBDA) * pull(share, step / setting.steps)
        moved.step(v=(gradient * slope, _RATE))
    share, _ = rectified(moved.arrays["v"])
    return Rebuilt(replace(start, codes=levels.codes(share >= 0.5)), bias)


class Levels:
    """The two neighbours of every weight [N, K] on its grid.

    share: how far the weight is from the lower to the upper one, in [0, 1]; gap: between them, as
    reals.
    """

    def __init__(
        self, lower: NDArray[np.int16], upper: NDArray[np.int16], grid: Grid, weight: Real32
    ) -> None:
        self._lower, self._upper = lower, upper
        self.base = grid.real(lower[None])[0].astype(np.float32)
        self.gap = grid.real(upper[None])[0].astype(np.float32) - self.base
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.nan_to_num((weight - self.base) / self.gap, posinf=0, neginf=0)
        self.share = np.clip(share, 0, 1).astype(np.float32)

    @classmethod
    def of(cls, weight: Real32, grid: Grid) -> "Levels":
        """Of a weight in a grid [1, N, K]; beyond the ends the outermost two."""
        units = weight / grid.scale[0]
        if not grid.format.specials:
            lower, upper = _neighbours(units + grid.zero_point[0], grid.format, grid)
            return cls(lower, upper, grid, weight)
        lower, upper = (np.empty(weight.shape, np.int16) for _ in range(2))
        for value in np.unique(grid.zero_point[0]):  # special values
            own = grid.zero_point[0] == value
            fixed = with_special(grid.format, int(value))
            lower[own], upper[own] = _neighbours(units[own], fixed, grid)
        return cls(lower, upper, grid, weight)

    def real(self, share: Real32) -> Real32:
        """The weight with so much of the step taken."""
        return self.base + share * self.gap

    def codes(self, is_upper: NDArray[np.bool_]) -> NDArray[np.int16]:
        """The upper code or the lower one."""
        return np.where(is_upper, self._upper, self._lower)


def _neighbours(
    units: Real32, format: Format, grid: Grid
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The codes below and above weights in units of the scale."""
    low, high = format.quantized_range(symmetric=not grid.is_full)
    codes = np.arange(low, high + 1, dtype=np.int16)
    values, first = np.unique(format.values[codes - format.code_min], return_index=True)
    ordered = codes[first]  # −0 repeats 0
    at = np.clip(np.searchsorted(values, units, side="right") - 1, 0, max(len(values) - 2, 0))
    return ordered[at], ordered[np.minimum(at + 1, len(values) - 1)]


def rectified(v: Real32) -> tuple[Real32, Real32]:
    """h(V) and its slope.

    >>> [float(round(h, 3)) for h in rectified(np.float32([-3, 0, 3]))[0]]
    [0.0, 0.5, 1.0]
    """
    sigmoid = 1 / (1 + np.exp(-v))
    wide = sigmoid * (_ZETA - _GAMMA) + _GAMMA
    slope = sigmoid * (1 - sigmoid) * (_ZETA - _GAMMA)
    return np.clip(wide, 0, 1), np.where((wide > 0) & (wide < 1), slope, np.float32(0))


def inverse(share: Real32) -> Real32:
    """V of a share in [0, 1]."""
    return np.asarray(-np.log((_ZETA - _GAMMA) / (share - _GAMMA) - 1), np.float32)


def pull(share: Real32, progress: float) -> Real32 | float:
    """The slope of 1 − |2 h − 1|^β by h; 0 at first."""
    if progress < _WARM:
        return 0.0
    rest = (progress - _WARM) / (1 - _WARM)
    beta = _BETA[1] + (_BETA[0] - _BETA[1]) * max(0.0, 1 - rest)
    signed = 2 * share - 1
    return np.asarray(-2 * beta * np.sign(signed) * np.abs(signed) ** (beta - 1), np.float32)
