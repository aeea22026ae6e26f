# SPDX-License-Identifier: Apache-2.0
"""Least squares of scales: against numpy.linalg.lstsq on the inputs themselves."""

import numpy as np
import pytest

from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.fit_scales import fit_scales
from qcompile.passes.transform.grid import Grid
from qcompile.spec import QuantSpec
from tests.passes.transform.test_gptq import correlated, second_moment

N, K = 4, 72  # two blocks of 32 and one of 8


def problem(text: str):
    """Inputs [rows, K], a weight, its nearest codes as a grid, its block size."""
    spec = QuantSpec.parse(text)
    rows = correlated(0, K)
    weight = np.random.default_rng(1).standard_normal((N, K)).astype(np.float32)
    coded = code_weight(weight, spec, "minmax")
    grid = Grid.of(coded, 1, is_full=not spec.is_symmetric)
    return rows, weight[None].astype(np.float64), coded.codes[None], grid, coded.block


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("int3/axis(axis=0)/sym/f32", 2.0**-24),
        ("int3/block(axis=1,size=32)/sym/f16", 2.0**-11),
        ("uint2/block(axis=1,size=32)/asym/f16", 2.0**-11),
    ],
)
def test_scales_are_those_of_lstsq(text: str, step: float) -> None:
    rows, weight, codes, grid, block = problem(text)
    hessian = second_moment(rows).astype(np.float64)
    form = text.rsplit("/", 1)[1]
    found = fit_scales(weight, grid, codes, hessian, block, form)
    x, units = rows[:, 0].astype(np.float64), grid.units(codes)[0].astype(np.float64)
    starts = np.arange(0, K, block)
    for n in range(N):
        parts = np.stack([x[:, s : s + block] @ units[n, s : s + block] for s in starts], 1)
        best = np.linalg.lstsq(parts, x @ weight[0, n], rcond=None)[0]
        # the ridge is 1e-6 of the mean diagonal, times the condition; H itself is of float32
        gram = parts.T @ parts / len(x)
        bound = 2e-6 * np.linalg.cond(gram) * np.abs(best).max() + step * np.abs(best)
        assert (np.abs(found.scale[0, n, starts] - best) <= bound).all()
        assert (np.abs(grid.scale[0, n, starts] - best) > bound).any()  # the twin: before


def test_the_error_never_rises_and_signs_stay() -> None:
    rows, weight, codes, grid, block = problem("int2/block(axis=1,size=32)/sym/f16")
    hessian = second_moment(rows).astype(np.float64)

    def error(each: Grid) -> np.ndarray:
        left = each.real(codes) - weight
        return ((left @ hessian) * left).sum(2)

    found = fit_scales(weight, grid, codes, hessian, block, "f16")
    assert (error(found) <= error(grid) * (1 + 2.0**-40)).all()
    assert (error(found) < error(grid)).any()
    opposite = fit_scales(-weight, grid, codes, hessian, block, "f16")
    assert (opposite.scale > 0).all()


def test_a_block_of_zeros_keeps_its_scale() -> None:
    rows, weight, codes, grid, block = problem("int2/block(axis=1,size=32)/sym/f16")
    empty = codes.copy()
    empty[..., :32] = 0
    found = fit_scales(weight, grid, empty, second_moment(rows).astype(np.float64), block, "f16")
    assert np.isfinite(found.scale).all()
    assert np.array_equal(found.scale[..., :32], grid.scale[..., :32])
