# SPDX-License-Identifier: Apache-2.0
"""Descent: every step lowers the error; small problems end where brute force does."""

import itertools

import numpy as np
import pytest

from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform import descend as module
from qcompile.passes.transform.descend import descend, move_codes
from qcompile.passes.transform.gptq import gptq, output_error
from qcompile.passes.transform.grid import Grid
from qcompile.spec import QuantSpec
from tests.passes.transform.test_gptq import SPECS, correlated, second_moment

N, K = 12, 150


def coded(text: str, k: int = K, seed: int = 0):
    """Spec, weight and nearest codes."""
    spec = QuantSpec.parse(text)
    weight = np.random.default_rng(seed).standard_normal((N, k)).astype(np.float32)
    return spec, weight, code_weight(weight, spec, "minmax")


@pytest.mark.parametrize("text", [t for t in SPECS if "int8" not in t])
def test_less_error_than_gptq_on_other_inputs(text: str) -> None:
    spec, weight, nearest = coded(text)
    rows = correlated(1, rows=3000)
    hessian = second_moment(rows[:2000])
    found = descend(weight, nearest, hessian, spec, is_signed=True)
    before = gptq(weight, nearest, hessian, spec)
    assert output_error(weight, found, rows[2000:]) < output_error(weight, before, rows[2000:])
    low, high = spec.format.code_min, spec.format.code_max
    assert low <= found.codes.min() and found.codes.max() <= high
    if spec.granularity == "tensor":
        assert np.array_equal(found.scale, nearest.scale)


def test_moves_are_those_of_plain_coordinate_descent() -> None:
    _, weight, nearest = coded("int3/axis(axis=0)/sym/f32")
    hessian = second_moment(correlated(2)).astype(np.float64)
    grid = Grid.of(nearest, 1, is_full=True)
    wide = weight[None].astype(np.float64)
    found = move_codes(wide, grid, nearest.codes[None], hessian)
    codes, scale = nearest.codes.copy(), nearest.scale[:, 0]
    for i in range(K):
        error = codes * scale[:, None].astype(np.float64) - weight
        rest = error @ hessian[0, :, i] - error[:, i] * hessian[0, i, i]
        wanted = (weight[:, i] - rest / hessian[0, i, i]) / scale
        codes[:, i] = np.clip(np.rint(wanted), -4, 3)
    # a tie within rounding of float64 may fall to either side; none does here
    assert np.array_equal(found[0], codes)
    assert not np.array_equal(found[0], nearest.codes)


def test_no_single_code_is_better_in_the_end(monkeypatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 30)
    spec, weight, nearest = coded("int2/tensor/sym/f32", k=6)
    hessian = second_moment(correlated(3, 6))
    found = descend(weight, nearest, hessian, spec, is_signed=True)
    wide = hessian[0].astype(np.float64)
    wide += 1e-3 * np.trace(wide) / 6 * np.eye(6)

    def error(row: int, codes: np.ndarray) -> float:
        left = codes * float(found.scale[row, 0]) - weight[row]
        return float(left @ wide @ left)

    best = 0
    for row in range(N):
        mine = error(row, found.codes[row])
        for i, code in itertools.product(range(6), (-1, 0, 1)):
            other = found.codes[row].copy()
            other[i] = code
            assert error(row, other) >= mine * (1 - 2.0**-20)
        every = [error(row, np.array(c)) for c in itertools.product((-1, 0, 1), repeat=6)]
        best += mine <= min(every) * (1 + 2.0**-20)
    assert best >= N // 2  # a local optimum is the best of 729 for most rows


def test_eight_bits_keep_the_codes_of_gptq() -> None:
    spec, weight, nearest = coded("int8/axis(axis=0)/sym/f32")
    hessian = second_moment(correlated(4))
    found = descend(weight, nearest, hessian, spec, is_signed=True)
    expected = gptq(weight, nearest, hessian, spec)
    assert np.array_equal(found.codes, expected.codes)


def test_a_useless_hessian_gives_none() -> None:
    spec, weight, nearest = coded("int3/axis(axis=0)/sym/f32", k=5)
    for hessian in (np.zeros((1, 5, 5)), np.full((1, 5, 5), np.nan)):
        assert descend(weight, nearest, hessian.astype(np.float32), spec, is_signed=True) is None


@pytest.mark.parametrize(
    "text", ["int3/axis(axis=0)/sym/f32", "uint4/block(axis=1,size=32)/asym/f16"]
)
def test_rows_do_not_depend_on_one_another(text: str, monkeypatch) -> None:
    spec, weight, nearest = coded(text)
    hessian = second_moment(correlated(5))
    whole = descend(weight, nearest, hessian, spec, is_signed=True)
    monkeypatch.setattr(module, "_ROWS_BYTES", 8 * K)
    parts = descend(weight, nearest, hessian, spec, is_signed=True)
    assert np.array_equal(whole.codes, parts.codes)
    # float64 sums of another order, rounded to float32 or float16: the last bit may differ
    last = 2.0**-10 if spec.scale_format == "f16" else 2.0**-23
    assert (np.abs(whole.scale - parts.scale) <= last * np.abs(whole.scale)).all()
