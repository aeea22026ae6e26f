# SPDX-License-Identifier: Apache-2.0
"""Redescend: the weight that makes up for its input's errors is that of least squares."""

import numpy as np
import pytest

from qcompile.passes.transform import redescend as module
from qcompile.passes.transform.descend import descend
from qcompile.passes.transform.layer_rows import LayerRows, Setting, products
from qcompile.passes.transform.redescend import compensated, redescend
from tests.passes.transform.test_adaround import layer
from tests.passes.transform.test_gptq import SPECS, second_moment


def noisy(rows: LayerRows, size: float, seed: int = 9) -> LayerRows:
    """Inputs with errors that depend on one another; outputs as they were."""
    rng = np.random.default_rng(seed)
    k = rows.x.shape[2]
    mixing = np.eye(k) + size * rng.standard_normal((k, k)) / np.sqrt(k)
    return LayerRows((rows.x @ mixing).astype(np.float32), rows.y, rows.bounds)


def test_the_weight_is_that_of_least_squares(monkeypatch) -> None:
    monkeypatch.setattr(module, "DAMPING", 0.0)
    _, weight, _, _, rows = layer("int4/axis(axis=0)/sym/f32", 6, 20)
    given = noisy(rows, 0.3)
    x = given.x - given.x.mean(1, keepdims=True)
    y = given.y - given.y.mean(1, keepdims=True)
    hessian = second_moment(x.transpose(1, 0, 2))
    found = compensated(weight, hessian, x, y)
    exact = np.linalg.lstsq(x[0].astype(np.float64), y[0].astype(np.float64), rcond=None)[0].T
    left = np.square(y - products(x, found, None)).sum()
    least = np.square(y[0] - x[0].astype(np.float64) @ exact.T).sum()
    plain = np.square(y - products(x, weight, None)).sum()
    other = np.square(y - products(x, 2 * weight - found, None)).sum()  # the other sign
    # H in float32 has the relative error num · 2^-24, which moves V by as much times cond(H)
    bound = x.shape[1] * 2.0**-24 * np.linalg.cond(hessian[0].astype(np.float64))
    assert np.abs(found - exact).max() <= bound * np.abs(exact).max()
    assert least < left * (1 + 2.0**-20)
    assert left < plain < other


@pytest.mark.parametrize("text", [t for t in SPECS if "int8" not in t])
def test_errors_of_the_inputs_are_made_up_for(text: str) -> None:
    spec, weight, start, bias, rows = layer(text, 6, 40)
    given = noisy(rows, 0.3)
    found = redescend(weight, start, bias, given, Setting(spec))
    blind = descend(weight, start, second_moment(rows.x.transpose(1, 0, 2)), spec)
    own = given.mean_left(blind)
    assert given.error(found.weight, found.bias) < given.error(blind, own)
    left = given.y - products(given.x, found.weight.decode(), found.bias)
    assert np.abs(left.mean((0, 1))).max() <= 2.0**-20 * np.abs(given.y).max()


def test_a_layer_without_a_bias_gets_none() -> None:
    spec, weight, start, _, rows = layer("int3/axis(axis=0)/sym/f32", 6, 40)
    plain = noisy(LayerRows(rows.x, products(rows.x, weight, None)), 0.3)
    found = redescend(weight, start, None, plain, Setting(spec))
    assert found.bias is None
    assert plain.error(found.weight, None) < plain.error(start, None)


def test_inputs_without_numbers_keep_the_codes() -> None:
    spec, weight, start, bias, rows = layer("int3/axis(axis=0)/sym/f32", 6, 40)
    empty = LayerRows(np.zeros_like(rows.x), rows.y)
    assert redescend(weight, start, bias, empty, Setting(spec)).weight is start
