# SPDX-License-Identifier: Apache-2.0
"""The values of codes: those of numerics, with the least code and signs of scales."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.grid import Grid
from qcompile.spec import QuantSpec

N, K = 6, 37


@pytest.mark.parametrize(
    "text",
    [
        "int3/axis(axis=0)/sym/f32",
        "uint4/block(axis=1,size=32)/asym/f16",
        "e2m1/block(axis=1,size=32)/sym/f16",
        "ternary/axis(axis=0)/sym/f32",
    ],
)
def test_codes_and_reals_are_those_of_the_weight(text: str) -> None:
    spec = QuantSpec.parse(text)
    weight = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    coded = code_weight(weight, spec, "minmax")
    grid = Grid.of(coded, 2, is_full=not spec.is_symmetric)
    codes = coded.codes.reshape(2, N // 2, K)
    assert np.array_equal(grid.codes(weight.reshape(2, N // 2, K)), codes)
    assert np.array_equal(grid.real(codes).reshape(N, K), coded.decode())
    one = grid.at(5)
    assert np.array_equal(one.real(codes[..., 5]), grid.real(codes)[..., 5])
    order = np.stack([np.random.default_rng(i).permutation(K) for i in range(2)])
    moved = np.take_along_axis(codes, order[:, None, :], 2)
    expected = np.take_along_axis(grid.real(codes), order[:, None, :], 2)
    assert np.array_equal(grid.ordered(order).real(moved), expected)


def test_the_least_code_counts_where_the_grid_is_full() -> None:
    spec = QuantSpec.parse("int2/axis(axis=0)/sym/f32")
    weight = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]], np.float32)
    coded = replace(code_weight(weight, spec, "minmax"), scale=np.array([[-1.0]], np.float32))
    wide = weight[None].astype(np.float64)
    full, narrow = (Grid.of(coded, 1, is_full=each) for each in (True, False))
    assert full.codes(wide).tolist() == [[[1, 1, 0, -1, -2]]]
    assert narrow.codes(wide).tolist() == [[[1, 1, 0, -1, -1]]]
    assert full.real(full.codes(wide)).tolist() == [[[-1, -1, 0, 1, 2]]]
    again = quantize(weight, np.float32(-1), 0, spec.format, symmetric=False)
    assert np.array_equal(again[None], full.codes(wide))
    assert np.array_equal(
        dequantize(again, np.float32(-1), 0, spec.format)[None], full.real(again[None])
    )
