# SPDX-License-Identifier: Apache-2.0
"""Half of the rows choose a transform, the others judge it; scales of channels are candidates."""

from collections.abc import Iterator

import numpy as np
import pytest

from qcompile.numerics.hadamard import Rotation
from qcompile.numerics.scaling import Scaling
from qcompile.recipe import Recipe
from qcompile.rotation_error import Product, figures
from qcompile.transform_choice import ALPHAS, Halves, Make, best_of, scalings
from tests.test_rotation_error import normal, plan

RECIPE = Recipe()


def made(x: np.ndarray, weight: np.ndarray, activation: str) -> Make:
    def make(part: slice) -> Iterator[Product]:
        yield Product(x[part].astype(np.float64), weight, None, None, plan(activation=activation))

    return make


def test_halves_of_the_rows_have_none_in_common() -> None:
    halves = Halves.of([np.arange(7), np.arange(5)])
    assert np.arange(5)[halves.chosen].tolist() == [0, 2, 4]
    assert np.arange(5)[halves.held].tolist() == [1, 3]
    one = Halves.of([np.arange(7), np.arange(1)])
    assert one.chosen == one.held == slice(None)


def test_the_judged_error_is_that_of_the_other_rows() -> None:
    x, weight = normal(40, 32), normal(8, 32, seed=1)
    make, halves = made(x, weight, "int4/row/sym/f32"), Halves.of([x])
    tried = [Rotation(32, seed) for seed in range(4)]
    best = best_of(make, halves, tried, RECIPE)
    chosen = [mean for mean, _ in figures(make(halves.chosen), tried, RECIPE)]
    assert best.turning == tried[int(np.argmin(chosen))]
    ((held, _),) = figures(make(halves.held), [best.turning], RECIPE)
    assert best.mean == held != min(chosen)


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_scales_take_back_a_channel_that_the_weights_undo(factor: float) -> None:
    """A channel that is large in x and small in W: rotations spread it, scales remove it."""
    x, weight = normal(64, 32), normal(24, 32, seed=1)
    x[:, 5] *= factor
    weight[:, 5] /= factor
    halves = Halves.of([x])
    make = made(x, weight, "int4/row/sym/f32")
    tried = scalings(make, halves, 32)
    assert [each.alpha for each in tried] == list(ALPHAS)
    scaled = best_of(make, halves, tried, RECIPE)
    turned = best_of(make, halves, [Rotation(32, seed) for seed in range(4)], RECIPE)
    ((before, _),) = figures(make(halves.held), [None], RECIPE)
    assert (scaled.mean < 0.5 * before and scaled.mean < 0.5 * turned.mean) == (factor > 1)


def test_scales_of_blocks_and_of_channels_without_values() -> None:
    x, weight = normal(10, 12), normal(5, 12, seed=1)
    x[:, [2, 6, 10]] = 0
    make = made(x, weight, "int4/row/sym/f32")
    for each in scalings(make, Halves.of([x]), 4):
        assert len(each.scales) == 4 and each.scales[2] == 1
        y, w = each.times(x), each.readers(weight)
        bound = 16 * 2.0**-52 * (np.abs(x) @ np.abs(weight).T)
        assert (np.abs(y @ w.T - x.astype(np.float64) @ weight.T) <= bound + 1e-30).all()


def test_scales_do_not_leave_their_range() -> None:
    found = Scaling.of(np.array([1e30, 1e-30]), np.array([1e-30, 1e30]), 0.5)
    assert found.scales == (2.0**12, 2.0**-12)
