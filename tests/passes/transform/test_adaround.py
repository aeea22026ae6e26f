# SPDX-License-Identifier: Apache-2.0
"""AdaRound: codes next to their weights; small layers come out as by brute force."""

import itertools

import numpy as np
import pytest

from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.adaround import Levels, adaround, rectified
from qcompile.passes.transform.layer_rows import LayerRows, Setting, products
from qcompile.spec import QuantSpec
from tests.passes.transform.test_gptq import SPECS, correlated


def layer(text: str, n: int, k: int, seed: int = 0, bounds=(-np.inf, np.inf)):
    """Spec, weight, nearest codes, bias and rows."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((n, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    spec = QuantSpec.parse(text)
    x = np.ascontiguousarray(correlated(seed + 1, k).transpose(1, 0, 2))
    rows = LayerRows(x, products(x, weight, bias), bounds)
    return spec, weight, code_weight(weight, spec, "minmax"), bias, rows


@pytest.mark.parametrize("text", SPECS)
def test_codes_are_next_to_their_weights_and_better_than_nearest(text: str) -> None:
    spec, weight, start, bias, rows = layer(text, 6, 40)
    setting = Setting(spec, steps=600)
    found = adaround(weight, start, bias, rows, setting)
    assert rows.error(found.weight, bias) < rows.error(start, bias)
    assert found.bias is bias
    levels = Levels.of(weight, setting.grid(start))
    lower, upper = levels.codes(np.zeros(weight.shape, bool)), levels.codes(np.ones((1, 1), bool))
    codes = found.weight.codes
    assert ((codes == lower) | (codes == upper)).all()
    clipped = (levels.share == 0) | (levels.share == 1)
    between = np.abs(weight - levels.base) <= np.abs(levels.gap) * (1 + 2.0**-20)
    assert (between | clipped).all()


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf)])
def test_a_small_layer_comes_near_brute_force(bounds: tuple[float, float]) -> None:
    ranks = []
    for seed in range(6):
        spec, weight, start, bias, rows = layer("int3/axis(axis=0)/sym/f32", 1, 7, seed, bounds)
        setting = Setting(spec, steps=1500)
        levels = Levels.of(weight, setting.grid(start))
        errors = []
        for choice in itertools.product([False, True], repeat=7):
            real = np.where(choice, levels.base + levels.gap, levels.base)
            errors.append(rows.loss(products(rows.x, real.astype(np.float32), bias))[0])
        found = rows.error(adaround(weight, start, bias, rows, setting).weight, bias)
        ranks.append(int(np.sum(np.array(errors) < found * (1 - 2.0**-20))))
    assert np.median(ranks) == 0  # of 128, where no descent from one start promises the best
    assert max(ranks) < 8


def test_slope_of_the_rectified_sigmoid() -> None:
    v = np.linspace(-4, 4, 81, dtype=np.float32)
    share, slope = rectified(v)
    assert share.min() == 0
    assert share.max() == 1
    step = np.float32(2.0**-8)
    by_differences = (rectified(v + step)[0] - rectified(v - step)[0]) / (2 * step)
    bent = (slope == 0) != (by_differences == 0)  # where it becomes flat
    # Third derivative of 1.2 σ is at most 0.15; float32 sums of numbers below 1
    bound = 0.15 * step**2 / 6 + 4 * 2.0**-24 / step
    assert np.abs(slope - by_differences)[~bent].max() <= bound
    assert bent.sum() <= 2
