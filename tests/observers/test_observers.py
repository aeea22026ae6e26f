# SPDX-License-Identifier: Apache-2.0
"""Activation observers: ranges from batches."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.formats import get
from qcompile.numerics.params import params_of_range
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers import OBSERVERS, Observer
from qcompile.recipe import CALIBRATION_METHODS


def observed(name: str, batches: list[NDArray], format: str = "uint8") -> Observer:
    """The observer after all its passes over the batches."""
    observer = OBSERVERS[name](get(format))
    for number in range(observer.num_passes):
        if number:
            observer.next_pass()
        for batch in batches:
            observer.update(batch)
    return observer


def squared_error(x: NDArray, low: float, high: float, format: str) -> float:
    """Of the codes that the range gives."""
    params = params_of_range(low, high, get(format))
    codes = quantize(x, params.scale, params.zero_point, params.format, symmetric=False)
    real = dequantize(codes, params.scale, params.zero_point, params.format)
    return float(((real.astype(np.float64) - x) ** 2).sum())


def test_recipe_knows_the_same_methods() -> None:
    assert tuple(OBSERVERS) == CALIBRATION_METHODS


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_finite_gives_zero(name: str) -> None:
    assert observed(name, [np.float32([np.nan, np.inf]), np.float32([])]).range() == (0.0, 0.0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_constant_is_kept(name: str) -> None:
    assert observed(name, [np.full(9, 2.5, np.float32)]).range() == (2.5, 2.5)


def test_minmax_is_the_extremes_of_all_batches() -> None:
    batches = [np.float32([1, -2]), np.float32([np.inf, 0.5]), np.float32([-np.inf, 3])]
    assert observed("minmax", batches).range() == (-2.0, 3.0)


@pytest.mark.parametrize("format", ["uint2", "uint4", "uint8"])
@pytest.mark.parametrize("shape", ["normal", "relu", "heavy"])
def test_mse_is_never_worse_on_its_histogram(format: str, shape: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(20_000).astype(np.float32)
    x = {"normal": x, "relu": np.maximum(x, 0), "heavy": x**5}[shape]
    chosen, extremes = observed("mse", [x[:7], x[7:]], format).range(), (x.min(), x.max())
    edges = np.linspace(*(float(v) for v in extremes), 4097)
    counts = np.histogram(x, edges)[0]
    centres = np.repeat(((edges[1:] + edges[:-1]) / 2).astype(np.float32), counts)
    assert squared_error(centres, *chosen, format) <= squared_error(centres, *extremes, format)


def test_mse_clips_a_heavy_tail() -> None:
    rng = np.random.default_rng(0)
    x = np.append(rng.standard_normal(10_000), 60).astype(np.float32)
    low, high = observed("mse", [x], "uint4").range()
    assert high < 60
    assert low < 0
    assert squared_error(x, low, high, "uint4") < squared_error(x, x.min(), x.max(), "uint4")


def test_mse_keeps_the_range_of_what_every_code_fits() -> None:
    x = np.repeat(np.arange(16, dtype=np.float32), 10)
    assert observed("mse", [x], "uint4").range() == (0.0, 15.0)
