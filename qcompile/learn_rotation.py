# SPDX-License-Identifier: Apache-2.0
"""Learn the rotation of an edge: descent on the orthogonal matrices from a random one.

R ← (I + Y / 2)⁻¹ (I − Y / 2) R, a Cayley transform, stays orthogonal (Li, Fuxin and Todorovic 2020,
Cayley SGD; SpinQuant, Liu et al. 2024, section 3.2). Unlike SpinQuant the loss is not the network's
but the error of the products that read the edge, Σ ‖Q(x R) Q(W R)ᵀ − x Wᵀ‖² ÷ ‖x Wᵀ‖², of all rows
at once: it needs no reverse pass through the network, and each edge is learned by itself. Rounding
has the slope 1. Steps have a given length, which falls to 0.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.hadamard import Rotation
from qcompile.numerics.learned import Learned
from qcompile.recipe import Recipe
from qcompile.rotation_error import Product, coded, rounded
from qcompile.transform_choice import Halves, Make

STEPS, LENGTH = 60, 0.05  # LENGTH: of the first step, radians on average over the planes
LARGEST = 512  # channels of a learned matrix: a step inverts one


def learn(
    start: Rotation, make: Make, halves: Halves, recipe: Recipe, steps: int = STEPS
) -> Learned | None:
    """The best matrix on the way, by the error of the rows that choose; None where it is too large.

    A start that keeps the mean is kept: Y · 1 = 0, so that R · 1 = 1 stays.
    """
    if start.size > LARGEST:
        return None
    matrix, best = start.matrix(), (np.inf, start.matrix())
    for step in range(steps + 1):
        loss, gradient = _loss(matrix, make(halves.chosen), recipe)
        if loss < best[0]:
            best = loss, matrix
        skew = gradient @ matrix.T
        skew = skew - skew.T
        if start.keeps_mean:
            skew = skew - skew.mean(0, keepdims=True)
            skew = skew - skew.mean(1, keepdims=True)
        norm = float(np.sqrt((skew * skew).sum()))
        if step == steps or not norm > 0:
            break
        skew *= LENGTH * (1 - step / steps) * np.sqrt(len(skew)) / norm
        one = np.eye(len(skew))
        turn = np.linalg.solve(one + skew / 2, one - skew / 2)
        matrix = np.asarray(turn @ matrix, np.float64)
    return Learned.of(start, steps, best[1])


def _loss(
    matrix: NDArray[np.float64], products: Iterator[Product], recipe: Recipe
) -> tuple[float, NDArray[np.float64]]:
    """The sum of the products' noise ÷ signal, and its gradient by the matrix [size, size]."""
    size, total, gradient = len(matrix), 0.0, np.zeros_like(matrix)
    for product in products:
        x, weight = product.x, product.weight.astype(np.float64)
        weight = weight if product.gamma is None else weight * product.gamma
        turned = [(a.reshape(-1, size) @ matrix).reshape(a.shape) for a in (x, weight)]
        narrow = [a.astype(np.float32) for a in turned]
        given = rounded(narrow[0], product.plan.activation, recipe).astype(np.float64)
        codes = coded(narrow[1], product.plan, recipe).astype(np.float64)
        wanted = x @ weight.T
        error, signal = given @ codes.T - wanted, float((wanted**2).sum())
        if not signal:
            continue
        total += float((error**2).sum()) / signal
        gradient += 2 / signal * (x.reshape(-1, size).T @ (error @ codes).reshape(-1, size))
        gradient += 2 / signal * (weight.reshape(-1, size).T @ (error.T @ given).reshape(-1, size))
    return total, gradient
