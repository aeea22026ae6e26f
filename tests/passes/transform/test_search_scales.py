# SPDX-License-Identifier: Apache-2.0
"""One scale a row: no tried scale is better, signs give the odd code to the larger side."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.gptq import Factor, gptq
from qcompile.passes.transform.search_scales import Search
from qcompile.spec import QuantSpec
from tests.passes.transform.test_gptq import correlated, second_moment

N, K = 8, 60
TEXTS = ["int2", "int3", "int5", "int7", "binary", "ternary", "e2m1"]


def searched(text: str, weight: np.ndarray, *, is_signed: bool = True):
    """Grid, codes and H of a weight with one scale a row."""
    spec = QuantSpec.parse(f"{text}/axis(axis=0)/sym/f32")
    hessian = second_moment(correlated(0, K))
    factor = Factor.of(hessian)
    nearest = code_weight(weight, spec, "minmax")
    wide = weight[None].astype(np.float64)
    search = Search.of(weight, nearest, factor, hessian.astype(np.float64), is_signed=is_signed)
    return *search.best(wide, nearest), hessian, nearest


def errors(real: np.ndarray, weight: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Of every row."""
    left = real - weight
    return ((left @ hessian[0].astype(np.float64)) * left).sum(1)


@pytest.mark.parametrize("text", TEXTS)
def test_better_than_gptq_in_the_scale_of_the_extremes(text: str) -> None:
    weight = np.random.default_rng(2).standard_t(4, (N, K)).astype(np.float32)
    grid, codes, hessian, nearest = searched(text, weight)
    found = errors(grid.real(codes)[0], weight, hessian)
    plain = gptq(weight, nearest, hessian, QuantSpec.parse(f"{text}/axis(axis=0)/sym/f32"))
    assert found.sum() < errors(plain.decode(), weight, hessian).sum()
    assert (np.abs(grid.scale) > 0).all()
    assert np.array_equal(grid.scale, np.repeat(grid.scale[..., :1], K, 2))


def test_the_sign_gives_the_odd_code_to_the_larger_side() -> None:
    rng = np.random.default_rng(3)
    weight = np.abs(rng.standard_normal((N, K))).astype(np.float32)
    weight[N // 2 :] *= -1
    grid, codes, hessian, _ = searched("int2", weight)
    assert (grid.scale[0, : N // 2] < 0).all()
    assert (grid.scale[0, N // 2 :] > 0).all()
    assert (codes == -2).any(axis=(0, 2)).all()
    plain, positive, _, _ = searched("int2", weight, is_signed=False)
    assert (plain.scale > 0).all()
    signed = errors(grid.real(codes)[0], weight, hessian)[: N // 2]
    unsigned = errors(plain.real(positive)[0], weight, hessian)[: N // 2]
    assert signed.sum() < unsigned.sum()


@pytest.mark.parametrize("text", ["binary", "ternary", "e2m1"])
def test_formats_without_an_odd_code_have_positive_scales(text: str) -> None:
    weight = np.random.default_rng(4).standard_normal((N, K)).astype(np.float32)
    assert (searched(text, weight)[0].scale > 0).all()


def test_a_row_of_zeros_stays_zero() -> None:
    weight = np.random.default_rng(5).standard_normal((N, K)).astype(np.float32)
    weight[3] = 0
    grid, codes, _, _ = searched("int3", weight)
    assert not grid.real(codes)[0, 3].any()


def test_many_rows_try_the_shares_that_were_likely_on_a_sample() -> None:
    rng = np.random.default_rng(6)
    spec = QuantSpec.parse("int3/axis(axis=0)/sym/f32")
    hessian = second_moment(correlated(0, K))
    factor, wide = Factor.of(hessian), hessian.astype(np.float64)

    def of(rows: int) -> tuple[Search, np.ndarray, object]:
        weight = rng.standard_t(4, (rows, K)).astype(np.float32)
        nearest = code_weight(weight, spec, "minmax")
        return Search.of(weight, nearest, factor, wide, is_signed=True), weight, nearest

    few, _, _ = of(128)
    many, weight, nearest = of(400)
    assert len(few.shares) == 10
    assert len(many.shares) == 3
    assert set(many.shares) <= set(few.shares)
    every = replace(many, shares=few.shares)
    part = weight[None].astype(np.float64)
    best, likely = (s.tried(part, nearest)[2].min(2).sum() for s in (every, many))
    least = replace(many, shares=few.shares[-3:]).tried(part, nearest)[2].min(2).sum()
    assert best <= likely < least
