# SPDX-License-Identifier: Apache-2.0
"""The loss of a layer behind its Relu or Clip, codes of its inputs, and Adam."""

import numpy as np
import pytest

from qcompile.passes.transform.layer_rows import (
    InputGrid,
    LayerRows,
    Steps,
    coded_inputs,
    products,
    slope_by_scale,
)


def rows(bounds: tuple[float, float] = (-np.inf, np.inf), groups: int = 2) -> LayerRows:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((groups, 40, 5)).astype(np.float32)
    y = rng.standard_normal((groups, 40, 3)).astype(np.float32)
    return LayerRows(x, y, bounds)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 0.5)])
def test_slope_of_the_loss_is_that_of_differences(bounds: tuple[float, float]) -> None:
    given = rows(bounds)
    made = np.random.default_rng(1).standard_normal(given.y.shape).astype(np.float32)
    loss, slope = given.loss(made)
    seen, wanted = (np.clip(a.astype(np.float64), *bounds) for a in (made, given.y))
    assert abs(loss - np.square(seen - wanted).mean()) <= 2.0**-20 * loss
    inside = (made > bounds[0]) & (made < bounds[1])
    exact = 2 * (seen - wanted) * inside / made.size
    assert np.abs(slope - exact).max() <= 2.0**-22 * np.abs(exact).max()
    assert not np.abs(slope + exact).max() <= 2.0**-22 * np.abs(exact).max()


def test_products_are_those_of_each_group() -> None:
    given = rows()
    weight = np.random.default_rng(2).integers(-4, 4, (6, 5)).astype(np.float32)
    x = np.rint(given.x)  # whole numbers: exact
    bias = np.arange(6, dtype=np.float32)
    for group in range(2):
        part = weight[3 * group : 3 * group + 3]
        expected = x[group] @ part.T + bias[3 * group : 3 * group + 3]
        assert np.array_equal(products(x, weight, bias)[group], expected)
    assert np.array_equal(products(x, weight, None), products(x, weight, np.zeros(6, np.float32)))


def test_inputs_are_those_of_their_codes_and_the_slope_that_of_lsq() -> None:
    grid = InputGrid(np.float32(0.5), 3, 0, 7)
    x = np.float32([[[-9, -1.5, -0.3, 0, 0.2, 1.9, 2.0, 9]]])
    made, slope = coded_inputs(x, grid), slope_by_scale(x, grid)
    assert made[0, 0].tolist() == [-1.5, -1.5, -0.5, 0, 0, 2, 2, 2]
    inside = made - x
    expected = np.where((x >= -1.75) & (x <= 2.25), inside, made)
    assert np.abs(slope - expected).max() <= 2.0**-22
    given = LayerRows(x, np.zeros((1, 1, 1), np.float32), grid=grid)
    assert np.array_equal(given.inputs(), made)
    wider = given.scaled(np.float32(1))
    assert wider.inputs()[0, 0, -1] == 4
    assert given.scaled(None) is given


def test_steps_reach_a_minimum() -> None:
    steps = Steps(a=np.float32([5, -3]))
    for _ in range(400):
        steps.step(a=(2 * (steps.arrays["a"] - np.float32([1, 2])), 5e-2))
    assert np.abs(steps.arrays["a"] - [1, 2]).max() < 5e-2  # a step
