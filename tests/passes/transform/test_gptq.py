# SPDX-License-Identifier: Apache-2.0
"""GPTQ: against the paper's column-by-column elimination in plain loops."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.numerics.quantize import dequantize, quantize
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.gptq import DAMPING, gptq, output_error
from qcompile.spec import QuantSpec

SPECS = [
    "int8/axis(axis=0)/sym/f32",
    "int3/axis(axis=0)/sym/f32",
    "int4/tensor/sym/f32",
    "uint4/axis(axis=0)/asym/f32",
    "uint4/block(axis=1,size=32)/asym/f16",
    "int2/block(axis=1,size=32)/sym/f16",
    "e2m1/block(axis=1,size=32)/sym/f16",
    "binary/axis(axis=0)/sym/f32",
]
EACH = pytest.mark.parametrize("text", SPECS)
N, K, ROWS = 12, 150, 1000  # more columns than are rounded between two matrix products


def correlated(seed: int, k: int = K, rows: int = ROWS) -> NDArray[np.float32]:
    """Inputs [rows, 1, k] whose columns depend on each other."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, k)) @ rng.standard_normal((k, k)) / np.sqrt(k)
    return (mixed + rng.standard_normal(k))[:, None].astype(np.float32)


def second_moment(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """[groups, K, K]."""
    return np.einsum("rgi,rgj->gij", rows, rows).astype(np.float32) / len(rows)


def net(text: str, seed: int = 0, k: int = K) -> tuple[QuantSpec, NDArray, CodedWeight]:
    """A spec, a normal weight and its nearest codes."""
    spec = QuantSpec.parse(text)
    weight = np.random.default_rng(seed).standard_normal((N, k)).astype(np.float32)
    return spec, weight, code_weight(weight, spec, "minmax")


def reference(
    weight: NDArray, nearest: CodedWeight, hessian: NDArray, *, symmetric: bool
) -> NDArray[np.int16]:
    """Column by column; the inverse of H loses each rounded column by one elimination step."""
    left = weight.astype(np.float64)
    scale = nearest.per_column(nearest.scale)
    point = np.zeros_like(scale) if nearest.zero_point is None else nearest.zero_point
    point = point if point.shape == scale.shape else nearest.per_column(point)
    codes = np.empty(weight.shape, np.int16)
    damped = hessian.astype(np.float64) + DAMPING * np.diag(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(damped)
    for at in np.argsort(-np.diag(hessian), kind="stable"):
        grid = scale[:, at], point[:, at], nearest.format
        codes[:, at] = quantize(left[:, at].astype(np.float32), *grid, symmetric=symmetric)
        error = left[:, at] - dequantize(codes[:, at], *grid)
        left -= np.outer(error, inverse[at] / inverse[at, at])
        inverse -= np.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    return codes


@EACH
def test_codes_are_those_of_the_paper(text: str) -> None:
    spec, weight, nearest = net(text)
    hessian = second_moment(correlated(1))
    found = gptq(weight, nearest, hessian, spec)
    expected = reference(weight, nearest, hessian[0], symmetric=spec.is_symmetric)
    assert found is not None
    assert np.array_equal(found.codes, expected)
    assert not np.array_equal(found.codes, nearest.codes)  # the twin: nearest is something else


@EACH
def test_without_correlation_it_is_nearest(text: str) -> None:
    spec, weight, nearest = net(text)
    found = gptq(weight, nearest, np.eye(K, dtype=np.float32)[None], spec)
    assert found is not None
    assert np.array_equal(found.codes, nearest.codes)
    hessian = np.eye(K, dtype=np.float32)[None] + np.float32(0.9)
    other = gptq(weight, nearest, hessian, spec)
    assert not np.array_equal(other.codes, nearest.codes)


def test_groups_are_solved_one_by_one() -> None:
    spec, weight, nearest = net("int3/axis(axis=0)/sym/f32", k=18)
    rows = np.concatenate([correlated(seed, 18) for seed in range(4)], axis=1)
    whole = gptq(weight, nearest, second_moment(rows), spec)
    for group in range(4):
        part = slice(group * 3, group * 3 + 3)
        one = second_moment(rows[:, group : group + 1])
        alone = gptq(weight[part], code_weight(weight[part], spec, "minmax"), one, spec)
        assert np.array_equal(whole.codes[part], alone.codes)
        wrong = second_moment(rows[:, (group + 1) % 4][:, None])
        near = code_weight(weight[part], spec, "minmax")
        other = gptq(weight[part], near, wrong, spec)
        assert not np.array_equal(whole.codes[part], other.codes)


def test_order_of_the_columns_does_not_matter() -> None:
    spec, weight, nearest = net("int3/axis(axis=0)/sym/f32")
    rows = correlated(2)
    order = np.random.default_rng(3).permutation(K)
    found = gptq(weight, nearest, second_moment(rows), spec)
    moved_weight = np.ascontiguousarray(weight[:, order])
    moved = gptq(
        moved_weight,
        code_weight(moved_weight, spec, "minmax"),
        second_moment(np.ascontiguousarray(rows[..., order])),
        spec,
    )
    assert np.array_equal(moved.codes, found.codes[:, order])


@EACH
def test_output_error_is_smaller_on_other_inputs(text: str) -> None:
    spec, weight, nearest = net(text)
    rows = correlated(4, rows=2 * ROWS)
    seen, held = rows[:ROWS], rows[ROWS:]
    hessian = second_moment(seen)
    found = gptq(weight, nearest, hessian, spec)
    error, before = (output_error(weight, each, held) for each in (found, nearest))
    assert error < before
    order = np.random.default_rng(5).permutation(K)
    shuffled = np.ascontiguousarray(hessian[:, order][:, :, order])
    wrong = gptq(weight, nearest, shuffled, spec)
    assert output_error(weight, wrong, held) > error


def test_output_error_is_that_of_the_products() -> None:
    _, weight, nearest = net("int2/axis(axis=0)/sym/f32", k=6)
    rows = np.concatenate([correlated(seed, 6, 5) for seed in range(3)], axis=1)
    error = nearest.decode().astype(np.float64) - weight
    sums = [error[n] @ rows[r, n // 4] for r in range(5) for n in range(N)]
    expected = sum(s * s for s in sums)
    # sums of 6 and then of 60 terms, each rounded to float64
    assert abs(output_error(weight, nearest, rows) - expected) <= 66 * 2.0**-53 * expected
    shifted = nearest.codes.copy()
    shifted[0, 0] += 1 - 2 * (shifted[0, 0] > 0)
    other = CodedWeight(shifted, nearest.scale, None, nearest.format)
    assert abs(output_error(weight, other, rows) - expected) > 66 * 2.0**-53 * expected


def test_columns_that_no_input_reaches_go_to_the_nearest_code() -> None:
    spec, weight, nearest = net("int3/axis(axis=0)/sym/f32")
    rows = correlated(6)
    rows[..., ::3] = 0
    found = gptq(weight, nearest, second_moment(rows), spec)
    assert np.array_equal(found.codes[:, ::3], nearest.codes[:, ::3])
    assert not np.array_equal(found.codes, nearest.codes)


def test_a_singular_hessian_is_damped() -> None:
    spec, weight, nearest = net("int3/axis(axis=0)/sym/f32")
    rows = correlated(7, rows=5)  # rank 5 of 150
    found = gptq(weight, nearest, second_moment(rows), spec)
    assert output_error(weight, found, rows) < output_error(weight, nearest, rows)


def test_a_hessian_that_is_none_is_damped_more_or_refused() -> None:
    spec, weight, nearest = net("int3/axis(axis=0)/sym/f32")
    near_one = np.eye(K, dtype=np.float32)[None].copy()
    near_one[0, 0, 1] = near_one[0, 1, 0] = 1.05  # eigenvalue −0.05: needs a damping above 0.05
    found = gptq(weight, nearest, near_one, spec)
    assert found is not None
    for useless in (
        np.zeros((1, K, K), np.float32),
        np.full((1, K, K), np.nan, np.float32),
        np.eye(K, dtype=np.float32)[None] + 4 * np.eye(K, k=1) + 4 * np.eye(K, k=-1),
    ):
        assert gptq(weight, nearest, useless.astype(np.float32), spec) is None
