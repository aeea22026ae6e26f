# SPDX-License-Identifier: Apache-2.0
"""Which of several transforms of an edge is the best: chosen on one half of the rows, judged on the
other, which no candidate has seen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.ordering import LARGEST_CHAIN, Haar, Ordering, paired
from qcompile.numerics.scaling import Moving, Scaling
from qcompile.recipe import Recipe
from qcompile.rotation_error import Product, Turning, figures
from qcompile.rotation_rows import Figures

CLIPS = (100.0, 99.9, 99.0)  # percentiles of the ranges of channels
MOVING_ALPHAS = (0.0, 0.5, 0.75, 1.0)
ALPHAS = tuple(tenths / 10 for tenths in range(1, 10))
Make = Callable[[slice], Iterator[Product]]  # the quantized products of an edge, on some rows


@dataclass(frozen=True)
class Halves:
    """The rows that choose, and those that judge; the same ones where there is a single row."""

    chosen: slice
    held: slice

    @classmethod
    def of(cls, rows: Sequence[NDArray]) -> "Halves":
        """Every other row of each input."""
        if min(map(len, rows)) < 2:
            return cls(slice(None), slice(None))
        return cls(slice(0, None, 2), slice(1, None, 2))


@dataclass(frozen=True)
class Judged:
    """A candidate; its mean noise ÷ signal on the rows that judge, and the figures there."""

    turning: Turning
    mean: float
    figures: Figures


def best_of(make: Make, halves: Halves, tried: Sequence[Turning], recipe: Recipe) -> Judged:
    """The candidate with the least error on the rows that choose."""
    found = figures(make(halves.chosen), tried, recipe)
    best = tried[int(np.argmin([mean for mean, _ in found]))]
    ((mean, after),) = figures(make(halves.held), [best], recipe)
    return Judged(best, mean, after)


def scalings(
    make: Make, halves: Halves, block: int, written: NDArray | None = None
) -> list[Scaling]:
    """One for each α, from the largest inputs and weights of every channel of a block.

    written [block]: the largest weights that write each channel; with them the scales that make
    both weights' ranges one (Nagel et al. 2019, section 4.1) are the last candidate.
    """
    x_max, w_max = np.zeros(block), np.zeros(block)
    for product in make(halves.chosen):
        kernel = product.kernel
        x_max = np.maximum(x_max, np.abs(product.x).reshape(-1, block, kernel).max((0, 2)))
        w_max = np.maximum(w_max, np.abs(product.weight).reshape(-1, block, kernel).max((0, 2)))
    found = [Scaling.of(x_max, w_max, alpha) for alpha in ALPHAS]
    return found if written is None else [*found, Scaling.of(written, w_max, 0.5)]


def movings(make: Make, halves: Halves) -> list[Moving]:
    """Scales and shifts from the ranges of channels; all products have the same input."""
    x = next(iter(make(halves.chosen))).x
    return [Moving.of(x, alpha, clip) for alpha in MOVING_ALPHAS for clip in CLIPS]


def orders(make: Make, halves: Halves, block: int) -> list[Ordering]:
    """Channels by what blocks of weights could have alike, each by the weights of all products.

    Norms of columns (K-sort), the largest weight, their mean, which zero points take, and the
    calibrated size of the inputs; and neighbours that are near, up to LARGEST_CHAIN channels.
    """
    sums = {rule: np.zeros(block) for rule in ("weight norm", "largest weight", "mean weight")}
    inputs = np.zeros(block)
    for product in make(halves.chosen):
        w = product.weight.astype(np.float64)
        w /= np.sqrt((w * w).mean()) or 1.0
        every = w.reshape(-1, block)
        sums["weight norm"] += (every**2).sum(0)
        sums["largest weight"] = np.maximum(sums["largest weight"], np.abs(every).max(0))
        sums["mean weight"] += every.sum(0)
        inputs += (product.x.reshape(-1, block) ** 2).sum(0)
    sums["input norm"] = inputs
    found = [Ordering(tuple(np.argsort(s, kind="stable").tolist()), r) for r, s in sums.items()]
    near = nearest_columns(make, halves, block)
    return [*found, Ordering(near, "nearest columns")] if near else found


def haars(make: Make, halves: Halves, block: int) -> list[Haar]:
    """HBVLA's transform, of one level and of two; none above LARGEST_CHAIN channels."""
    near = nearest_columns(make, halves, block)
    return [Haar(near, levels) for levels in (1, 2)] if near and block >= 4 else []


def nearest_columns(make: Make, halves: Halves, block: int) -> tuple[int, ...]:
    """Channels with alike weights as neighbours; () where they are too many to compare."""
    if block > LARGEST_CHAIN:
        return ()
    weights = [p.weight.astype(np.float64).reshape(-1, block) for p in make(halves.chosen)]
    return paired(np.concatenate([w / (np.sqrt((w * w).mean()) or 1.0) for w in weights]))
