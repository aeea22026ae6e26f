# SPDX-License-Identifier: Apache-2.0
"""Renormalise: outputs have the float network's means and deviations again; codes stay."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.passes.transform.layer_rows import LayerRows, Setting, products
from qcompile.passes.transform.renormalise import renormalise
from tests.passes.transform.test_adaround import layer
from tests.passes.transform.test_gptq import SPECS

F32, F16 = 2.0**-23, 2.0**-10


@pytest.mark.parametrize("text", SPECS)
def test_means_and_deviations_are_those_of_the_float_network(text: str) -> None:
    spec, weight, start, bias, rows = layer(text, 6, 40)
    found = renormalise(weight, start, bias, rows, Setting(spec))
    assert np.array_equal(found.weight.codes, start.codes)
    made = products(rows.x, found.weight.decode(), found.bias)
    largest = float(np.abs(rows.x).max() * np.abs(weight).sum(1).max())
    step = F16 if spec.scale_format == "f16" else 0.0  # scales are stored in it
    bound = largest * (step + F32 * (weight.shape[1] + 4))
    assert np.abs(made.mean(1) - rows.y.mean(1)).max() <= bound
    if spec.granularity != "tensor":
        assert np.abs(made.std(1) - rows.y.std(1)).max() <= bound
        wrong = replace(found.weight, scale=np.roll(found.weight.scale, 1, 0))  # other rows'
        spoilt = products(rows.x, wrong.decode(), found.bias)
        assert np.abs(spoilt.std(1) - rows.y.std(1)).max() > bound


def test_the_factors_of_channels_are_found() -> None:
    spec, weight, start, bias, rows = layer("int8/axis(axis=0)/sym/f32", 6, 40)
    by = np.float32([0.25, 0.5, 1, 2, -4, 1])[:, None]
    spoilt = replace(start, scale=start.scale / np.abs(by))
    found = renormalise(weight, spoilt, bias, rows, Setting(spec))
    given = renormalise(weight, start, bias, rows, Setting(spec))
    # exact powers of two; deviations in float64 of the same float32 sums
    assert np.array_equal(found.weight.scale, given.weight.scale)
    assert rows.error(found.weight, found.bias) < rows.error(spoilt, bias) / 100


def test_signs_of_scales_stay() -> None:
    spec, weight, start, bias, rows = layer("int4/axis(axis=0)/sym/f32", 6, 40)
    turned = replace(start, scale=-start.scale, codes=np.maximum(-start.codes, -8).astype(np.int16))
    found = renormalise(weight, turned, bias, rows, Setting(spec))
    assert (found.weight.scale < 0).all()


def test_constant_outputs_and_layers_without_a_bias() -> None:
    spec, weight, start, bias, rows = layer("int3/axis(axis=0)/sym/f32", 6, 40)
    still = LayerRows(np.zeros_like(rows.x), np.broadcast_to(bias, rows.y.shape).copy())
    found = renormalise(weight, start, bias + 1, still, Setting(spec))
    assert np.array_equal(found.weight.scale, start.scale)
    assert np.array_equal(found.bias, bias)
    assert renormalise(weight, start, None, rows, Setting(spec)).bias is None
