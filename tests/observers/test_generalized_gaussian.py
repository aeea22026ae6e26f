# SPDX-License-Identifier: Apache-2.0
"""The generalized Gaussian: its shape from samples, its entropy, and the scales that it gives."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import gammaln

from qcompile.formats import get
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers.generalized_gaussian import (
    GeneralizedGaussian,
    best_ratio,
    pooled_shape,
    shape_of,
)
from qcompile.observers.weight_range import code_weight
from qcompile.spec import QuantSpec

SHAPES = [0.5, 1.0, 2.0]
MILLION = 1_000_000
OUTER = [sign * x for sign in (-1, 1) for x in (1.0, 5.0, 20.0, 80.0, 300.0)]
NAMES = ["int3", "int4", "int8", "e2m1", "nf4", "rf8", "ternary", "binary"]


def samples(beta: float, count: int, seed: int = 0) -> NDArray[np.float64]:
    """|x|^β has the Gamma density with the shape 1/β; α = 1."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 1.0], count) * rng.gamma(1 / beta, 1, count) ** (1 / beta)


def of_values(values: NDArray[np.float64]) -> GeneralizedGaussian:
    return GeneralizedGaussian.of_moments(
        float(np.abs(values).mean()), float(np.square(values).mean())
    )


@pytest.mark.parametrize("beta", SHAPES)
def test_shape_and_width_of_a_million_samples(beta: float) -> None:
    found = of_values(samples(beta, MILLION))
    assert found.beta == pytest.approx(beta, rel=0.03)
    assert found.alpha == pytest.approx(1, rel=0.06)


def test_shapes_end_at_the_ends() -> None:
    assert shape_of(1.0) == pytest.approx(16)
    assert shape_of(1e9) == pytest.approx(0.1)


@pytest.mark.parametrize("beta", SHAPES)
def test_coded_size_is_the_entropy_of_the_codes(beta: float) -> None:
    """The check of the paper: within 2 % of what an ideal coder needs for the samples."""
    values = samples(beta, MILLION, 1)
    found = of_values(values)
    step = float(values.std()) / 24
    counts = np.unique(np.rint(values / step), return_counts=True)[1] / MILLION
    entropy = float(-(counts * np.log2(counts)).sum())
    assert found.coded_bits(step) == pytest.approx(entropy, rel=0.02)
    assert abs(found.coded_bits(2 * step) / entropy - 1) > 0.02  # a bit less is another size


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beta", SHAPES)
def test_expected_error_is_the_integral(name: str, beta: float) -> None:
    format, density = get(name), GeneralizedGaussian(0.8, beta)
    low, high = format.quantized_range(symmetric=True)
    levels = np.unique(format.values[low - format.code_min : high - format.code_min + 1]) * 1.0
    scale = 3.0 / format.absmax(symmetric=True)
    middles = (levels[1:] + levels[:-1]) / 2 * scale
    ends = np.r_[-4000.0, middles, 4000.0]
    factor = beta / (2 * 0.8 * float(np.exp(gammaln(1 / beta))))

    def loss(x: float, level: float) -> float:
        return (level - x) ** 2 * factor * float(np.exp(-((abs(x) / 0.8) ** beta)))

    total = 0.0
    for level, a, b in zip(levels * scale, ends, ends[1:], strict=False):
        inner = [p for p in (0.0, *OUTER) if a < p < b]
        total += sum(
            quad(loss, c, d, (float(level),))[0]
            for c, d in zip([a, *sorted(inner)], [*sorted(inner), b], strict=True)
        )
    assert density.expected_error(scale, format) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beta", [0.7, 2.0])
def test_the_scale_is_the_best_of_all(name: str, beta: float) -> None:
    format, density = get(name), GeneralizedGaussian(1.0, beta)
    absolute = float(np.abs(samples(beta, MILLION, 2)).mean())
    best = best_ratio(format, beta) * absolute
    least = min(density.expected_error(best * f, format) for f in np.geomspace(0.02, 50, 400))
    assert density.expected_error(best, format) <= 1.002 * least


@pytest.mark.parametrize("name", ["int4", "e2m1", "rf8"])
def test_codes_of_a_weight_lose_what_is_expected(name: str) -> None:
    weight = samples(1.0, 64 * 2048, 3).reshape(64, 2048).astype(np.float32)
    spec = QuantSpec.parse(f"{name}/axis(axis=0)/sym/f32")
    left = np.square(code_weight(weight, spec, "ggd").decode().astype(np.float64) - weight)
    shape = round(pooled_shape(weight, 2048), 3)
    absolute = GeneralizedGaussian(1.0, shape)
    scale = best_ratio(spec.format, shape) * float(np.abs(weight).mean())
    assert left.mean() == pytest.approx(absolute.expected_error(scale, spec.format), rel=0.05)
    minmax = np.square(code_weight(weight, spec, "minmax").decode().astype(np.float64) - weight)
    assert name == "rf8" or left.mean() < minmax.mean()


def test_heavy_tails_are_where_the_float_wins() -> None:
    """RF8's claim, on samples: β = 0.4 in one scale. Real weights do not get there."""
    weight = samples(0.4, MILLION, 4).reshape(1000, 1000).astype(np.float32)

    def left(text: str, method: str) -> float:
        coded = code_weight(weight, QuantSpec.parse(text), method).decode()
        return float(np.square(coded.astype(np.float64) - weight).mean())

    rf8 = left("rf8/tensor/sym/f32", "ggd")
    e4m3 = get("e4m3")
    codes = quantize(weight, e4m3.table_scale, 0, e4m3)  # bias 7: values as they are
    fixed = dequantize(codes, e4m3.table_scale, 0, e4m3).astype(np.float64) - weight
    assert rf8 < left("int8/tensor/sym/f32", "minmax")
    assert rf8 <= 1.02 * float(np.square(fixed).mean())


def test_rows_of_zeros_and_short_blocks() -> None:
    weight = np.zeros((3, 40), np.float32)
    weight[1] = np.linspace(-1, 1, 40)
    spec = QuantSpec.parse("int4/block(axis=1,size=32)/sym/f16")
    coded = code_weight(weight, spec, "ggd")
    assert coded.scale is not None
    assert coded.scale[0].tolist() == [1.0, 1.0]
    assert not coded.decode()[[0, 2]].any()
    whole = code_weight(weight, QuantSpec.parse("int4/tensor/sym/f32"), "ggd")
    assert whole.scale is not None and np.unique(whole.scale).size == 1
    assert pooled_shape(np.zeros((2, 3), np.float32), 2) == 2.0


def test_asymmetric_formats_are_searched_as_by_mse() -> None:
    weight = np.random.default_rng(5).standard_normal((6, 70)).astype(np.float32)
    spec = QuantSpec.parse("uint4/block(axis=1,size=32)/asym/f16")
    found, expected = (code_weight(weight, spec, method) for method in ("ggd", "mse"))
    assert np.array_equal(found.codes, expected.codes)
