# SPDX-License-Identifier: Apache-2.0
"""Which of several transforms of an edge is the best: chosen on one half of the rows, judged on the
other, which no candidate has seen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.scaling import Scaling
from qcompile.recipe import Recipe
from qcompile.rotation_error import Product, Turning, figures
from qcompile.rotation_rows import Figures

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


def scalings(make: Make, halves: Halves, block: int) -> list[Scaling]:
    """One for each α, from the largest inputs and weights of every channel of a block."""
    x_max, w_max = np.zeros(block), np.zeros(block)
    for product in make(halves.chosen):
        x_max = np.maximum(x_max, np.abs(product.x).reshape(-1, block).max(0))
        w_max = np.maximum(w_max, np.abs(product.weight).reshape(-1, block).max(0))
    return [Scaling.of(x_max, w_max, alpha) for alpha in ALPHAS]
