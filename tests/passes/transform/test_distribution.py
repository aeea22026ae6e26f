# SPDX-License-Identifier: Apache-2.0
"""Distribution: the loss of ABQ-LLM against its formula, and layers that it betters."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.passes.transform.distribution import DistributionRows, distribution
from qcompile.passes.transform.layer_rows import LayerRows, Setting, products
from tests.passes.transform.test_adaround import layer
from tests.passes.transform.test_redescend import noisy

TEXTS = ["int2/axis(axis=0)/sym/f32", "uint4/block(axis=1,size=32)/asym/f16"]


def by_formula(d: np.ndarray, fp: np.ndarray, own: np.ndarray) -> float:
    """Of outputs [num, N]."""
    total = 0.0
    for target in (fp, own):
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(d, target, strict=True)]
        total += ((d - target) ** 2).mean() / fp.var() - np.log(np.mean(cosines))
    return total


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (-0.5, np.inf)])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_loss_is_that_of_the_paper(groups: int, bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(groups)
    x, own = rng.standard_normal((groups, 9, 5)), rng.standard_normal((6, 5)).astype(np.float32)
    bias = rng.standard_normal(6).astype(np.float32)
    near = products(x.astype(np.float32), own, bias)
    y, made = near + 0.5 * rng.standard_normal((2, *near.shape))
    rows = LayerRows(x.astype(np.float32), y.astype(np.float32), bounds, bias=bias)
    found = DistributionRows.of(own, rows)

    def flat(v: np.ndarray) -> np.ndarray:
        return np.clip(v, *bounds).swapaxes(0, 1).reshape(9, 6).astype(np.float64)

    sums = products(rows.x, own, bias)
    total, slope = found.loss(made.astype(np.float32))
    exact = by_formula(flat(made.astype(np.float32)), flat(rows.y), flat(sums))
    assert abs(total - exact) <= 2.0**-20 * exact  # 54 float32 terms and errors of 2^-24 each
    wrong = by_formula(flat(made.astype(np.float32)), flat(rows.y), flat(rows.y))
    assert abs(total - wrong) > 2.0**-20 * exact
    step = 2.0**-10
    for at in np.ndindex(*made.shape):
        up, down = made.copy(), made.copy()
        up[at] += step
        down[at] -= step
        if (min(up[at], down[at]) - bounds[0]) * (max(up[at], down[at]) - bounds[0]) < 0:
            continue  # over the bound there is no slope
        rise = [by_formula(flat(v), flat(rows.y), flat(sums)) for v in (up, down)]
        numeric = (rise[0] - rise[1]) / (2 * step)
        assert abs(slope[at] - numeric) <= 2.0**-10 * np.abs(slope).max()


def test_a_place_without_outputs_turns_nothing() -> None:
    rows = LayerRows(np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 4), np.float32))
    found = DistributionRows.of(np.ones((4, 3), np.float32), rows)
    total, slope = found.loss(np.zeros((1, 2, 4), np.float32))
    assert np.isfinite(total)
    assert np.array_equal(slope, np.zeros_like(slope))


@pytest.mark.parametrize("text", TEXTS)
def test_outputs_are_nearer(text: str) -> None:
    spec, weight, start, bias, rows = layer(text, 6, 40)
    given = replace(noisy(rows, 0.3), bias=bias)
    found = distribution(weight, start, bias, given, Setting(spec, steps=800))
    before = DistributionRows.of(weight, given)
    assert given.error(found.weight, found.bias) < given.error(start, bias)
    assert before.error(found.weight, found.bias) < before.error(start, bias)
