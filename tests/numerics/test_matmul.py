# SPDX-License-Identifier: Apache-2.0
"""QMatMul: N10, N11, N13, N14."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.formats import get
from qcompile.numerics.gather import qgather
from qcompile.numerics.matmul import (
    block_sums,
    exact_product,
    qmatmul_dynamic,
    qmatmul_float,
    qmatmul_static,
)
from qcompile.numerics.weight import CodedWeight
from tests.numerics import loops
from tests.numerics.weights import random_weight

ONE_F32 = 2.0**-24  # half a unit: one rounding


def test_sums_are_exact() -> None:  # N10
    x = np.full((1, 65_536), 128)
    assert exact_product(x, np.full((1, 65_536), 255)).tolist() == [[128 * 255 * 65_536]]
    x[0, 0] = 127
    assert exact_product(x, np.full((1, 65_536), 255)).tolist() == [[128 * 255 * 65_536 - 255]]


def test_sums_beyond_53_bits_are_refused() -> None:  # N10
    with pytest.raises(AssertionError):
        exact_product(np.full((1, 2), 2**26), np.full((1, 2), 2**26))


def test_int32_holds_the_longest_sum() -> None:  # N10
    assert 65_536 * 128 * 255 < 2**31 <= 66_000 * 128 * 255


def test_static_by_loops() -> None:  # N11
    rng = np.random.default_rng(0)
    weight = random_weight(rng, 5, 37, has_scale=False)
    x = rng.integers(0, 256, (2, 3, 37)).astype(np.uint8)
    bias, scale = rng.integers(-9000, 9000, 5), rng.uniform(1e-4, 1e-3, 5).astype(np.float32)
    codes = qmatmul_static(x, weight, bias.astype(np.int32), scale, 99, 120, 5, 240)
    for b, m, n in np.ndindex(2, 3, 5):
        acc = sum((int(x[b, m, k]) - 99) * int(weight.codes[n, k]) for k in range(37))
        assert codes[b, m, n] == loops.requantize(acc, int(bias[n]), scale[n], 120, 5, 240)


def test_static_by_hand() -> None:  # N11
    weight = CodedWeight(np.int16([[1, -2], [3, 0]]), None, None, get("int4"), 0, "none")
    x = np.uint8([[12, 9], [10, 10]])  # less 10: (2, −1), (0, 0)
    codes = qmatmul_static(x, weight, np.int32([0, 100]), np.float32([0.5, 0.25]), 10, 20)
    assert codes.tolist() == [[22, 46], [20, 45]]  # 4 · 0.5; 106 · 0.25 = 26.5 → 26; 0; 25


@pytest.mark.parametrize("lead", [(), (0,), (2, 0), (1,), (2, 3)])
def test_leading_dimensions(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = random_weight(rng, 4, 6)
    x = rng.standard_normal((*lead, 6)).astype(np.float32)
    for y, bound in (qmatmul_dynamic(x, weight), qmatmul_float(x, weight)):
        assert y.shape == bound.shape == (*lead, 4)
    static = random_weight(rng, 4, 6, has_scale=False)
    codes = x.astype(np.uint8)
    scale = np.ones(4, np.float32)
    assert qmatmul_static(codes, static, None, scale, 0, 0).shape == (*lead, 4)


def test_block_sums_by_loops() -> None:  # N13
    rng = np.random.default_rng(2)
    weight = random_weight(rng, 3, 11, "uint4", 4, has_zero_point=True)
    x = rng.integers(-127, 128, (2, 11))
    sums = block_sums(x, weight)
    assert sums.shape == (3, 2, 3)
    for block, m, n in np.ndindex(3, 2, 3):
        columns = range(4 * block, min(4 * block + 4, 11))
        point = int(weight.zero_point[n, block])
        expected = sum(int(x[m, k]) * (int(weight.codes[n, k]) - point) for k in columns)
        assert sums[block, m, n] == expected


def dynamic_f32(x: NDArray, weight: CodedWeight, bias: NDArray) -> NDArray[np.float32]:
    """N13 in f32 and in the worst order a kernel may take: one block after the other, no FMA."""
    amax = np.abs(x).max(1, keepdims=True)
    x_scale = (amax / np.float32(127)).astype(np.float32)
    codes = np.rint(x / x_scale).astype(np.int64)
    total = np.zeros((len(x), weight.shape[0]), np.float32)
    for block, start in enumerate(range(0, x.shape[1], weight.block)):
        columns = slice(start, start + weight.block)
        acc = codes[:, columns] @ weight.values()[:, columns].astype(np.int64).T
        total += weight.scale[:, block] * acc.astype(np.float32)
    return total * x_scale + bias


@pytest.mark.parametrize(("format", "block"), [("int8", 0), ("int4", 32), ("uint3", 32)])
def test_dynamic_bound_holds_in_f32(format: str, block: int) -> None:  # N4, N13
    rng = np.random.default_rng(7)
    weight = random_weight(rng, 6, 100, format, block, has_zero_point=format == "uint3")
    x = rng.standard_normal((5, 100)).astype(np.float32)
    bias = rng.standard_normal(6).astype(np.float32)
    y, bound = qmatmul_dynamic(x, weight, bias)
    assert (np.abs(dynamic_f32(x, weight, bias) - y) <= bound).all()
    codes = weight.codes.copy()
    codes[3, 50] += 1 if codes[3, 50] < 3 else -1
    twin = dynamic_f32(x, replace(weight, codes=codes), bias)
    assert set(np.nonzero((np.abs(twin - y) > bound).any(0))[0]) == {3}


def test_dynamic_by_hand() -> None:  # N4, N13
    weight = CodedWeight(np.int16([[1, 2, 3]]), np.float32([[0.5, 2]]), None, get("int8"), 2)
    x = np.float32([[127, 1, -2], [0, 0, 0]])
    y, bound = qmatmul_dynamic(x, weight, np.float32([10]))
    assert y.tolist() == [[10 + 0.5 * 129 + 2 * -6], [10]]
    assert bound.tolist() == [[6 * 2.0**-23 * (0.5 * 129 + 12 + 10)], [6 * 2.0**-23 * 10]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_stays_in_its_row(bad: float) -> None:  # N4
    rng = np.random.default_rng(0)
    weight = random_weight(rng, 4, 8, "int4", 8)
    x = rng.standard_normal((3, 8)).astype(np.float32)
    clean, _ = qmatmul_dynamic(x, weight, clip=(-1, 1))
    x[1, 2] = bad
    y, bound = qmatmul_dynamic(x, weight, clip=(-1, 1))
    assert np.isnan(y[1]).all()
    assert np.isnan(bound[1]).all()
    assert np.array_equal(y[[0, 2]], clean[[0, 2]])


def test_clip_comes_last() -> None:  # N13, N14
    weight = CodedWeight(np.int16([[2]]), np.float32([[1]]), None, get("int8"))
    x, bias = np.float32([[127], [-127]]), np.float32([-250])
    assert qmatmul_dynamic(x, weight, bias, clip=(0, 3))[0].tolist() == [[3], [0]]
    assert qmatmul_float(x, weight, bias, clip=(0, 3))[0].tolist() == [[3], [0]]


def test_float_bound_holds_in_f32() -> None:  # N14
    rng = np.random.default_rng(1)
    weight = random_weight(rng, 6, 257, "int4", 32)
    x = rng.standard_normal((3, 257)).astype(np.float32)
    bias = rng.standard_normal(6).astype(np.float32)
    y, bound = qmatmul_float(x, weight, bias)

    def in_f32(chosen: CodedWeight) -> NDArray[np.float32]:
        total = np.zeros((3, 6), np.float32)
        for k in range(257):
            total += x[:, k : k + 1] * chosen.decode()[:, k]
        return total + bias

    assert (np.abs(in_f32(weight) - y) <= bound).all()
    codes = weight.codes.copy()
    codes[2, 200] += 1 if codes[2, 200] < 7 else -1
    twin = in_f32(replace(weight, codes=codes))
    assert set(np.nonzero((np.abs(twin - y) > bound).any(0))[0]) == {2}


def test_gather_is_the_decoded_row() -> None:  # N23
    rng = np.random.default_rng(3)
    weight = random_weight(rng, 5, 9, "uint4", 4, has_zero_point=True)
    rows = qgather(weight, np.array([[4, -5], [2, -1]]))
    for at, row in (((0, 0), 4), ((0, 1), 0), ((1, 0), 2), ((1, 1), 4)):
        for k in range(9):
            value = int(weight.codes[row, k]) - int(weight.zero_point[row, k // 4])
            exact = value * float(weight.scale[row, k // 4])
            assert rows[(*at, k)] == np.float32(exact)  # one rounding: half a unit at most
            assert abs(float(rows[(*at, k)]) - exact) <= ONE_F32 * abs(exact)
