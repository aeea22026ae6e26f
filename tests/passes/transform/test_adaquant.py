# SPDX-License-Identifier: Apache-2.0
"""AdaQuant: weights, scales, bias and input scale of a layer fit its outputs together."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.passes.transform.adaquant import adaquant
from qcompile.passes.transform.layer_rows import InputGrid, LayerRows, Setting, products
from tests.passes.transform.test_adaround import layer
from tests.passes.transform.test_gptq import SPECS


@pytest.mark.parametrize("text", SPECS)
def test_outputs_are_nearer(text: str) -> None:
    spec, weight, start, bias, rows = layer(text, 6, 40)
    found = adaquant(weight, start, bias, rows, Setting(spec, steps=800))
    assert rows.error(found.weight, found.bias) < rows.error(start, bias)
    low, high = spec.format.code_min, spec.format.code_max
    assert low <= found.weight.codes.min()
    assert found.weight.codes.max() <= high
    assert found.input_scale is None


def test_no_steps_change_nothing() -> None:
    spec, weight, start, bias, rows = layer("int2/axis(axis=0)/sym/f32", 6, 40)
    codes = np.random.default_rng(3).integers(-1, 2, start.codes.shape).astype(np.int16)
    moved = replace(start, codes=codes)  # far from the weight
    found = adaquant(weight, moved, bias, rows, Setting(spec))
    assert np.array_equal(found.weight.codes, codes)
    assert np.array_equal(found.weight.scale, start.scale)
    assert np.array_equal(found.bias, bias)


def test_codes_move_by_more_than_a_step() -> None:
    spec, weight, start, bias, rows = layer("int4/axis(axis=0)/sym/f32", 6, 40)
    twin = np.roll(rows.y, 1, axis=2)  # outputs of other rows of the weight
    other = LayerRows(rows.x, twin)
    found = adaquant(weight, start, bias, other, Setting(spec, steps=3000))
    assert np.abs(found.weight.codes - start.codes).max() > 1
    assert other.error(found.weight, found.bias) < other.error(start, bias)


def test_the_scale_of_the_inputs_is_tuned() -> None:
    spec, weight, start, bias, rows = layer("int8/axis(axis=0)/sym/f32", 6, 40)
    grid = InputGrid(np.float32(np.abs(rows.x).max() / 3), 8, 0, 15)  # twice too wide
    coarse = LayerRows(rows.x, rows.y, grid=grid)
    found = adaquant(weight, start, bias, coarse, Setting(spec, steps=1500))
    assert found.input_scale is not None
    assert found.input_scale < grid.scale
    error = coarse.scaled(found.input_scale).error(found.weight, found.bias)
    assert error < coarse.error(found.weight, found.bias) < coarse.error(start, bias)


def test_a_layer_without_a_bias_gets_none() -> None:
    spec, weight, start, _, rows = layer("int3/axis(axis=0)/sym/f32", 6, 40)
    plain = LayerRows(rows.x, products(rows.x, weight, None))
    found = adaquant(weight, start, None, plain, Setting(spec, steps=300))
    assert found.bias is None
    assert plain.error(found.weight, None) < plain.error(start, None)
