# SPDX-License-Identifier: Apache-2.0
"""The error that decides about a rotation is that of the codes of the plan."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.norms import Norm
from qcompile.numerics.hadamard import Hadamard, Rotation
from qcompile.plan import NodePlan
from qcompile.recipe import Recipe
from qcompile.rotation_error import Product, figures, noise, rounded, shape_of
from qcompile.spec import QuantSpec

WEIGHT, ROW = "int4/axis(axis=0)/sym/f32", "int4/row/sym/f32"
RECIPE = Recipe()


def plan(weight: str = WEIGHT, activation: str | None = ROW) -> NodePlan:
    spec = None if activation is None else QuantSpec.parse(activation)
    return NodePlan("m", "MatMul", "w", 0, QuantSpec.parse(weight), spec)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_whole_numbers_within_the_codes_have_no_error() -> None:
    x, weight = np.float32([[7, -3, 1, 0]]), np.float32([[7, 1, -2, 5], [-7, 0, 0, 0]])
    assert noise(x, weight, plan(), RECIPE) == 0
    assert noise(x, weight + np.float32(0.25), plan(), RECIPE) > 0  # the twin
    assert noise(0 * x, weight, plan(), RECIPE) == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_lose_at_most_half_a_step(bits: int) -> None:
    x = normal(6, 32)
    step = np.abs(x).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    found = rounded(x, QuantSpec.parse(f"int{bits}/row/sym/f32"), RECIPE)
    gap = np.abs(found - x)
    # the quotient and the product are rounded in float32
    assert (gap <= step * (0.5 + 2 ** (bits + 1) * 2.0**-23)).all() and (gap > 0.4 * step).any()


def test_static_inputs_have_the_range_of_the_samples() -> None:
    x = normal(64, 16)
    found = rounded(x, QuantSpec.parse("uint8/tensor/asym/f32"), RECIPE)
    step = (x.max() - x.min()) / 255
    # half a step for the code, half a step for the code of 0
    assert np.abs(found - x).max() <= step * (1 + 2.0**-14)
    assert len(np.unique(found)) > 128
    assert rounded(x, None, RECIPE) is x


@pytest.mark.parametrize("turning", [Rotation(32, 0), Hadamard(32, 16, 0)])
def test_a_rotation_leaves_the_product_but_not_its_error(turning: Rotation | Hadamard) -> None:
    x = normal(64, 32)
    x[:, 5] *= 30
    # float inputs and 8-bit weights: what is left is the rounding of weights, in both
    wide, narrow = plan("int8/axis(axis=0)/sym/f32", None), plan()
    for chosen, least in ((wide, 0.0), (narrow, 2.0)):
        product = Product(x.astype(np.float64), normal(16, 32, seed=1), None, None, chosen)
        (before, _), (after, seen) = product.measure(None, RECIPE), product.measure(turning, RECIPE)
        assert before > least * after > 0 or least == 0
        turned = product.weight.astype(np.float64) @ turning.times(np.eye(32))
        gap = np.abs(seen @ turned.T - x.astype(np.float64) @ product.weight.T)
        assert gap.max() <= 64 * 2.0**-23 * (np.abs(x) @ np.abs(product.weight).T).max()


def test_a_norms_scale_and_shift_are_there_only_before() -> None:
    gamma, beta = np.linspace(0.5, 2, 8, dtype=np.float32), np.full(8, 3, np.float32)
    weight, rows = normal(4, 8), normal(10, 8, seed=3)
    norm = Norm(None, 1, 0.0, gamma, beta, True, ())  # type: ignore[arg-type]
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float64)
    wanted = centred / centred.std(1, keepdims=True)
    product = Product(wanted, weight, gamma.astype(float), beta.astype(float), plan())
    _, before = product.measure(None, RECIPE)
    _, after = product.measure(Rotation(8, 0, keeps_mean=True), RECIPE)
    assert np.array_equal(before, (wanted * gamma + beta).astype(np.float32))
    assert np.abs(after.mean(1)).max() <= 32 * 2.0**-23
    assert norm.is_centred


def test_products_of_zeros_have_no_noise() -> None:
    product = Product(np.zeros((3, 8)), normal(2, 8), None, None, plan())
    ((error, found),) = figures([product], [None], RECIPE)
    assert (error, found.sqnr_db, found.kurtosis, found.crest) == (0, float("inf"), 0, 0)


def test_normal_rows_have_kurtosis_three() -> None:
    kurtosis, crest = shape_of(normal(400, 4096))
    assert abs(kurtosis - 3) < 4 * np.sqrt(96 / (400 * 4096))  # four standard errors, Var = 96 / n
    assert 3 < crest < 5


def test_maps_have_one_scale_for_all_pixels_of_a_sample() -> None:
    x = normal(6, 8)
    x[0] *= 100
    by_row, by_sample = (
        rounded(x, QuantSpec.parse(f"int8/{granularity}/sym/f32"), RECIPE)
        for granularity in ("row", "sample")
    )
    assert np.abs(by_row - x)[1:].max() < np.abs(by_sample - x)[1:].max()
    step = np.abs(x).max() / 127
    assert np.abs(by_sample - x).max() <= step * (0.5 + 2.0**-20)


def test_windows_have_no_error_that_the_bias_takes_back() -> None:
    """Equal rows have one error in every output, rows that differ have some more."""
    row, weight = normal(1, 36), normal(5, 36, seed=1)
    static = plan(activation="uint8/tensor/asym/f32")
    for rows, is_constant in ((np.repeat(row, 8, 0), True), (normal(8, 36, seed=2), False)):
        product = Product(rows.astype(np.float64), weight, None, None, static, kernel=9)
        found, _ = product.measure(None, RECIPE)
        left, _ = replace(product, has_bias=True).measure(None, RECIPE)
        assert 0 <= left < found
        assert (left < 1e-25 * found) == is_constant
