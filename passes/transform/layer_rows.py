# SPDX-License-Identifier: Apache-2.0
"""LayerRows: what a layer of the quantized network takes in, and what the float one gives for it.

A rebuilder finds codes on them that make the layer's output, behind its Relu or Clip, that of the
float network, in spite of the errors that its inputs have already (Nagel et al. 2020, section 3.3).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.adam import adam
from qcompile.passes.transform.grid import Grid
from qcompile.spec import QuantSpec

Real32 = NDArray[np.float32]
_BATCH = 512  # rows of a step


@dataclass(frozen=True)
class InputGrid:
    """Codes of the inputs, where this layer alone reads them: their scale can be tuned."""

    scale: np.float32
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class LayerRows:
    """x float32 [groups, num, K]: inputs in the quantized network; before their quantizer where
    grid is not None. y float32 [groups, num, N/groups]: sums with the bias in the float network.
    bounds: of the Relu or Clip that follows, −∞ and ∞ where none does. bias [N]: of the float
    network. curvature [groups, N/groups, N/groups]: what the network's loss makes of errors of the
    sums.
    """

    x: Real32
    y: Real32
    bounds: tuple[float, float] = (-np.inf, np.inf)
    grid: InputGrid | None = None
    bias: Real32 | None = None
    curvature: Real32 | None = None

    @property
    def num(self) -> int:
        """How many rows."""
        return self.x.shape[1]

    def places(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Of the rows of a step."""
        return rng.integers(0, self.num, min(_BATCH, self.num))

    def drawn(self, rng: np.random.Generator) -> "LayerRows":
        """Some of them, for a step."""
        at = self.places(rng)
        return replace(self, x=self.x[:, at], y=self.y[:, at])

    def scaled(self, scale: np.float32 | None) -> "LayerRows":
        """With that scale of the inputs' codes; as they are for None."""
        if scale is None or self.grid is None:
            return self
        return replace(self, grid=replace(self.grid, scale=scale))

    def inputs(self) -> Real32:
        """x as the layer reads it."""
        if self.grid is None:
            return self.x
        return coded_inputs(self.x, self.grid)

    def loss(self, made: Real32) -> tuple[float, Real32]:
        """The mean over rows and outputs of (f(made) − f(y))², and its gradient by `made`.

        f clips to the bounds; what it clips has no gradient. With a curvature G it is the mean of
        eᵀ G e ÷ the number of outputs, e the error of the sums: G knows about f.
        """
        if self.curvature is not None:
            left = made - self.y
            turned, count = left @ self.curvature, max(left.size, 1)
            total = float((turned * left).sum(dtype=np.float64)) / count
            return total, np.asarray(turned * np.float32(2 / count), np.float32)
        low, high = np.float32(self.bounds[0]), np.float32(self.bounds[1])
        seen = np.clip(made, low, high)
        error = seen - np.clip(self.y, low, high)
        total = float(np.square(error, dtype=np.float64).mean()) if error.size else 0.0
        inside = (made > low) & (made < high)
        return total, error * inside * np.float32(2 / max(error.size, 1))

    def error(self, weight: CodedWeight, bias: Real32 | None) -> float:
        """The loss of a coded weight [N, K] with a bias [N]."""
        return self.loss(products(self.inputs(), weight.decode(), bias))[0]

    def mean_left(self, weight: CodedWeight) -> Real32:
        """The bias [N] that leaves no mean error of the sums with a coded weight [N, K]."""
        left = self.y - products(self.inputs(), weight.decode(), None)
        return np.asarray(left.mean(1, dtype=np.float64).ravel(), np.float32)


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuilder found. bias: None where the layer has none; input_scale: where it stayed."""

    weight: CodedWeight
    bias: Real32 | None
    input_scale: np.float32 | None = None


@dataclass(frozen=True)
class Setting:
    """What a rebuilder is asked for.

    method: of the scales of nearest codes, None for the default. is_signed: whether a scale of a
    whole row may be negative. steps: of rebuilders that step. rng: draws the rows of a step.
    """

    spec: QuantSpec
    method: str | None = None
    is_signed: bool = True
    steps: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def grid(self, start: CodedWeight) -> Grid:
        """Of a weight; the least code counts where the weight has it already (N3)."""
        least = self.spec.format.quantized_range(symmetric=True)[0]
        has_least = bool(start.codes.min(initial=0) < least)
        return Grid.of(start, 1, is_full=has_least or not self.spec.is_symmetric)


# Of a weight [N, K], codes to start from, the bias [N] or None where there is none, and rows.
Rebuilder = Callable[[Real32, CodedWeight, Real32 | None, LayerRows, Setting], Rebuilt]


def products(x: Real32, weight: Real32, bias: Real32 | None) -> Real32:
    """y [groups, num, N/groups] of x [groups, num, K], a weight [N, K] and a bias [N]."""
    groups = len(x)
    y = x @ weight.reshape(groups, -1, x.shape[2]).swapaxes(1, 2)
    return np.asarray(y if bias is None else y + bias.reshape(groups, 1, -1))


def coded_inputs(x: Real32, grid: InputGrid) -> Real32:
    """x as its codes have it."""
    point = np.float32(grid.zero_point)
    units = np.rint(x / grid.scale)
    return np.clip(units, grid.low - point, grid.high - point) * grid.scale


def slope_by_scale(x: Real32, grid: InputGrid) -> Real32:
    """The slope of coded_inputs by the logarithm of the scale (LSQ)."""
    made = coded_inputs(x, grid)
    inside = np.abs(made - x) <= grid.scale / 2
    return np.where(inside, made - x, made)


class Steps:
    """Adam (adam.py) on arrays, each with a rate of its own."""

    def __init__(self, **arrays: Real32) -> None:
        self.arrays = arrays
        self._moments: dict[str, tuple[Real32, Real32]] = {}
        self._count = 0

    def step(self, **moves: tuple[Real32, float]) -> None:
        """One step from (gradient, rate) of each array named."""
        self._count += 1
        for name, (gradient, rate) in moves.items():
            moved, self._moments[name] = adam(gradient, self._moments.get(name), self._count)
            self.arrays[name] = (self.arrays[name] - rate * moved).astype(np.float32)

    def state(self) -> dict[str, NDArray]:
        """Everything, by names that a file can have; see `of_state`."""
        held: dict[str, NDArray] = {"count": np.array(self._count), **self.arrays}
        for name, (mean, square) in self._moments.items():
            held |= {f"{name}_mean": mean, f"{name}_square": square}
        return held

    @classmethod
    def of_state(cls, held: dict[str, NDArray]) -> "Steps":
        """Steps that go on from a state."""
        names = [n for n in held if n != "count" and not n.endswith(("_mean", "_square"))]
        found = cls(**{name: np.asarray(held[name], np.float32) for name in names})
        found._count = int(held["count"])
        found._moments = {
            name: (held[f"{name}_mean"], held[f"{name}_square"])
            for name in names
            if f"{name}_mean" in held
        }
        return found
