# SPDX-License-Identifier: Apache-2.0
"""Activation observers: ranges from batches."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.formats import get
from qcompile.numerics.params import params_of_range
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers import OBSERVERS, Observer, observer_of
from qcompile.observers.histogram import Histogram
from qcompile.observers.moving_average import STEP
from qcompile.recipe import CALIBRATION_METHODS


def observed(name: str, batches: list[NDArray], format: str = "uint8") -> Observer:
    """The observer after the batches."""
    observer = OBSERVERS[name](get(format))
    for batch in batches:
        observer.update(batch)
    return observer


def tensor(shape: str, count: int = 20_000) -> NDArray[np.float32]:
    """Activations as networks have them."""
    x = np.random.default_rng(3).standard_normal(count).astype(np.float32)
    return {"normal": x, "relu": np.maximum(x, 0), "heavy": x**5, "far": x + 100}[shape]


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
@pytest.mark.parametrize("value", [2.5, -3.0, 1e-45, 1e30, 0.0])
@pytest.mark.parametrize("count", [1, 9])
def test_a_constant_is_kept(name: str, value: float, count: int) -> None:
    value = float(np.float32(value))
    batch = np.full(count, value, np.float32)
    assert observed(name, [batch, np.float32([]), batch]).range() == (value, value)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("shape", ["normal", "relu", "heavy", "far"])
def test_the_range_lies_within_the_seen_one(name: str, shape: str) -> None:
    x = tensor(shape)
    low, high = observed(name, [x[:5000], x[5000:]]).range()
    assert min(x.min(), 0) <= low < high <= max(x.max(), 0)
    assert params_of_range(low, high, get("uint8")).scale > 0


@pytest.mark.parametrize("name", ["minmax", "percentile", "entropy", "mse"])
def test_batches_do_not_matter(name: str) -> None:
    x = tensor("heavy")
    parts = [x[:10], x[10:300], x[300:]]
    assert observed(name, parts).range() == observed(name, [x]).range()
    assert observed(name, parts[::-1]).range() == observed(name, [x]).range()


def test_minmax_is_the_extremes_of_all_batches() -> None:
    batches = [np.float32([1, -2]), np.float32([np.inf, 0.5]), np.float32([-np.inf, 3])]
    assert observed("minmax", batches).range() == (-2.0, 3.0)


def test_moving_average_is_that_of_the_batch_extremes() -> None:
    batches = np.split(tensor("heavy"), 8)
    weights = np.r_[(1 - STEP) ** 7, [STEP * (1 - STEP) ** (7 - i) for i in range(1, 8)]]
    assert weights.sum() == pytest.approx(1, rel=8 * np.finfo(float).eps)
    lows, highs = [float(b.min()) for b in batches], [float(b.max()) for b in batches]
    # 8 products and sums in float64.
    bound = 16 * np.finfo(float).eps
    found = observed("moving-average", batches).range()
    assert found == pytest.approx((weights @ lows, weights @ highs), rel=bound)
    assert found != pytest.approx((weights[::-1] @ lows, weights[::-1] @ highs), rel=bound)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("shape", ["normal", "relu", "heavy", "far"])
def test_percentile_leaves_its_share_outside(percentile: float, shape: str) -> None:
    x = tensor(shape)
    observer = observer_of("percentile", percentile, get("uint8"))
    for part in np.split(x, 10):
        observer.update(part)
    low, high = observer.range()
    most = (100 - percentile) / 200 * x.size
    assert (x < low).sum() <= most + 1e-6 and (x > high).sum() <= most + 1e-6
    # A bin, of which there are more than 4094, further in it would be too many, but for the ends.
    inner = max(x.max(), 0) / 4094 + max(-x.min(), 0) / 4094
    assert (x < low + inner).sum() > most or low == x.min()
    assert (x > high - inner).sum() > most or high == x.max()


def test_percentile_of_all_values_is_minmax() -> None:
    x = tensor("normal")
    observer = observer_of("percentile", 100.0, get("uint8"))
    observer.update(x)
    assert observer.range() == (x.min(), x.max())


def kl_of_all_data(x: NDArray, low: float, high: float, width: float, format: str) -> float:
    """The divergence of entropy.py, from the values themselves and not from a histogram."""
    values = x[x != 0].astype(np.float64)
    bins = np.floor(values / width).astype(int)
    first = int(np.floor(min(low, 0) / width))
    last = int(np.floor(max(high, 0) / width))
    inside = (bins >= first) & (bins <= last)
    real = Counter(np.clip(bins, first, last).tolist())
    kept = Counter(bins[inside].tolist())
    params = params_of_range(low, high, get(format))
    code = {
        b: int(
            quantize(
                np.float32((b + 0.5) * width), params.scale, params.zero_point, params.format,
                symmetric=False,
            )
        )
        for b in kept
    }  # fmt: skip
    sums, filled = Counter[int](), Counter[int]()
    for b, count in kept.items():
        sums[code[b]] += count
        filled[code[b]] += 1
    total = 0.0
    for b, count in real.items():
        p = count / values.size
        q = sums[code[b]] / filled[code[b]] / inside.sum() if b in kept else 1e-9
        total += p * np.log(p / q)
    return total


@pytest.mark.parametrize("format", ["uint4", "uint8"])
@pytest.mark.parametrize("shape", ["normal", "relu", "heavy"])
def test_entropy_has_the_least_divergence_of_all_data(shape: str, format: str) -> None:
    x = tensor(shape, 3000)
    histogram = Histogram()
    histogram.update(x)
    low, high = observed("entropy", [x[:100], x[100:]], format).range()
    full = (float(x.min()), float(x.max()))
    found = {
        top: kl_of_all_data(x, max(full[0], -top), min(full[1], top), histogram.width, format)
        for top in np.arange(128, 7, -8) / 128 * max(-full[0], full[1])
    }
    chosen = kl_of_all_data(x, low, high, histogram.width, format)
    # Sums of at most 8192 terms in float64, in another order.
    assert chosen <= min(found.values()) + 8192 * np.finfo(float).eps * max(1, chosen)
    assert chosen < max(found.values())


def test_entropy_does_not_count_zeros() -> None:
    x = tensor("relu")
    positive = x[x > 0]
    assert observed("entropy", [x]).range()[1] == observed("entropy", [positive]).range()[1]


def test_entropy_clips_a_lone_outlier() -> None:
    x = np.append(tensor("normal"), np.float32(60))
    low, high = observed("entropy", [x]).range()
    assert 2 < high < 30 and low < 0


@pytest.mark.parametrize("format", ["uint2", "uint4", "uint8"])
@pytest.mark.parametrize("shape", ["normal", "relu", "heavy"])
def test_mse_is_never_worse_on_its_histogram(format: str, shape: str) -> None:
    x = tensor(shape)
    chosen, extremes = observed("mse", [x[:7], x[7:]], format).range(), (x.min(), x.max())
    histogram = Histogram()
    histogram.update(x)
    middles = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    centres = np.repeat(middles.astype(np.float32), histogram.counts)
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
