# SPDX-License-Identifier: Apache-2.0
"""Codebooks against published levels and what defines them; fitted ones against all partitions."""

from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.formats import get
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers.levels import fitted_format, weighted_levels
from qcompile.settle_formats import settled_spec
from qcompile.spec import QuantSpec

NF4 = (  # QLoRA, appendix E
    *(-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0),
)
LLOYD = {  # Max 1960, table 1
    1: (0.7979,),
    2: (0.4528, 1.5104),
    3: (0.2451, 0.7560, 1.3439, 2.1519),
    4: (0.1284, 0.3880, 0.6568, 0.9423, 1.2562, 1.6180, 2.0690, 2.7326),
}
MEDIANS = {  # Binary Adapters
    1: (0.6745,),
    2: (0.3778, 1.2657),
    4: (0.1056, 0.3190, 0.5401, 0.7752, 1.0340, 1.3331, 1.7077, 2.2655),
}
SQUARED = {1: 0.36338, 2: 0.11748, 3: 0.03455, 4: 0.00950, 5: 0.00250, 6: 0.00064}
HALF_A_STEP = 0.5 / 32639


def levels(name: str) -> np.ndarray:
    """Ascending levels as real numbers."""
    format = get(name)
    return np.sort(format.values.astype(np.float64) * format.table_scale)


def test_nf4_is_that_of_qlora() -> None:
    assert np.abs(levels("nf4") - NF4).max() <= HALF_A_STEP + 5e-8
    assert levels("nf3").tolist().count(0.0) == 1


@pytest.mark.parametrize("bits", list(LLOYD))
def test_lloyd_levels(bits: int) -> None:
    found = levels(f"lloyd{bits}")
    assert np.abs(found[2 ** (bits - 1) :] - LLOYD[bits]).max() < 1e-4
    assert np.array_equal(found, -found[::-1])


@pytest.mark.parametrize("bits", list(SQUARED))
def test_lloyd_error_of_a_normal(bits: int) -> None:
    """Its squared error by numerical integration over 8 deviations."""
    x = np.linspace(-8, 8, 400_001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    format = get(f"lloyd{bits}")
    left = dequantize(quantize(x, format.table_scale, 0, format), format.table_scale, 0, format) - x
    error = float((density * left**2).sum() * (x[1] - x[0]))
    assert error == pytest.approx(SQUARED[bits], abs=6e-6)


@pytest.mark.parametrize("bits", list(MEDIANS))
def test_gquant_levels_are_medians(bits: int) -> None:
    found = levels(f"gquant{bits}")
    assert np.abs(found[2 ** (bits - 1) :] - MEDIANS[bits]).max() < 1e-4
    normal = NormalDist()
    borders = [-np.inf, *((found[1:] + found[:-1]) / 2), np.inf]
    for level, low, high in zip(found, borders[:-1], borders[1:], strict=True):
        middle = (normal.cdf(low) + normal.cdf(high)) / 2
        rounding = 2 * HALF_A_STEP * found[-1] * normal.pdf(level)  # of the level and its borders
        assert abs(normal.cdf(level) - middle) <= rounding + 1e-9


def test_one_bit_of_gquant_has_the_least_absolute_error() -> None:
    """E|error| 0.4746 (Binary Adapters), less than that of E|x|, the least squared one."""
    x = np.random.default_rng(0).standard_normal(1_000_000)

    def error(level: float) -> float:
        return float(np.abs(np.abs(x) - level).mean())

    best = levels("gquant1")[1]
    assert error(best) == pytest.approx(0.4746, abs=2e-3)
    assert error(best) < min(error(float(levels("lloyd1")[1])), error(0.9 * best))


def squared(points: np.ndarray, mass: np.ndarray, found: np.ndarray) -> float:
    """The weighted squared error of every point to its nearest level."""
    return float((mass * np.square(points[:, None] - found).min(1)).sum())


@pytest.mark.parametrize("seed", range(8))
def test_fitted_levels_are_the_best_of_all(seed: int) -> None:
    """All ways to cut 9 points into 4 runs."""
    rng = np.random.default_rng(seed)
    points, mass = np.sort(rng.standard_normal(9)), rng.uniform(0.1, 3, 9)
    found = squared(points, mass, weighted_levels(points, mass, 2))
    every = []
    for cuts in combinations(range(1, 9), 3):
        parts = np.split(np.arange(9), cuts)
        means = np.array([(points[p] * mass[p]).sum() / mass[p].sum() for p in parts])
        every.append(squared(points, mass, means))
    assert found == pytest.approx(min(every), rel=1e-9)
    moved = weighted_levels(points, mass, 2) + np.array([0, 0, 0.05, 0])  # the twin
    assert squared(points, mass, moved) > found


def test_fewer_points_than_levels() -> None:
    assert weighted_levels(np.array([1.0, 1.0, 3.0]), np.ones(3), 2).tolist() == [1, 3, 3, 3]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_fitted_codebook_is_no_worse_than_integers(bits: int) -> None:
    weight = np.random.default_rng(bits).standard_t(4, (64, 128)).astype(np.float32)
    amax = np.abs(weight).max(1, keepdims=True)
    spec = QuantSpec.parse(f"kmeans{bits}/axis(axis=0)/sym/f32")
    error = {}
    for format in (fitted_format(weight, spec), get(f"int{bits}")):
        scale = amax / np.float32(format.absmax(symmetric=True))
        left = dequantize(quantize(weight, scale, 0, format), scale, 0, format) - weight
        error[format.name] = float(np.square(left).sum())
    assert error[f"kmeans{bits}"] < error[f"int{bits}"]


def test_what_is_left_to_the_weight_is_settled() -> None:
    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    open_spec = QuantSpec.parse("kmeans3/block(axis=1,size=32)/sym/ue4m3")
    settled = settled_spec(weight, open_spec)
    assert QuantSpec.parse(str(settled)) == settled
    assert settled.format.name == "kmeans3" and settled.format.has_own_table
    assert settled.scale_format.startswith("ue4m3*")
    assert settled_spec(weight, settled) == settled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine[1]", "1 entries; 2 to 256"),
        ("mine[0,0]", "not all of them 0"),
        ("mine[16777217,0]", "exact in float32"),
        ("mine[1,-,2]", "integers with commas"),
    ],
)
def test_tables_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        get(text)
