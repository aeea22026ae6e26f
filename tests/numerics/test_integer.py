# SPDX-License-Identifier: Apache-2.0
"""N41 … N44: operators of integer-only networks, against loops over Python integers."""

import numpy as np
import pytest

from qcompile.integer_graph import (
    Add,
    Branch,
    CodeMap,
    Conv,
    GlobalAveragePool,
    IntegerGraph,
    MaxPool,
)
from qcompile.numerics import integer
from qcompile.numerics.conv import Window
from qcompile.numerics.integer import Dyadic


def one(m: int, e: int) -> Dyadic:
    return Dyadic(np.array([m], np.int32), np.array([e], np.int32))


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (1, 1), (2, 1)])
def test_convolution_is_its_loops(stride: int, pad: int) -> None:  # N41
    rng = np.random.default_rng(stride + pad)
    x, w = rng.integers(0, 256, (2, 5, 4, 3)), rng.integers(-128, 128, (4, 3, 3, 3))
    bias = rng.integers(-99, 99, 4).astype(np.int32)
    window = Window((3, 3), (stride, stride), (pad,) * 4)
    y = integer.convolve(x, w.astype(np.int8), bias, window, 7)
    for b, i, j, n in np.ndindex(*y.shape):
        total = int(bias[n])
        for di, dj, c in np.ndindex(3, 3, 3):
            r, s = i * stride - pad + di, j * stride - pad + dj
            if 0 <= r < 5 and 0 <= s < 4:
                total += (int(x[b, r, s, c]) - 7) * int(w[n, di, dj, c])
        assert y[b, i, j, n] == total


def test_the_folded_bias_replaces_the_zero_point() -> None:  # N41
    rng = np.random.default_rng(0)
    x = CodeMap("x", (4, 4, 5), 8, False, 131)
    window = Window((3, 3), pads=(1, 1, 1, 1))
    w = rng.integers(-128, 128, (6, 3, 3, 5)).astype(np.int8)
    conv = Conv(x, CodeMap("y", (4, 4, 6), 32), w, np.arange(6, dtype=np.int32), None, window)
    codes = rng.integers(0, 256, (1, 4, 4, 5))
    padded = np.pad(codes, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=131)
    raw = integer.convolve(padded, w, np.zeros(6, np.int32), Window((3, 3)), 0)
    np.testing.assert_array_equal(raw + conv.folded_bias, conv.run(codes))


def test_codes_are_shifted_and_clamped() -> None:  # N42
    assert integer.to_codes(np.array([-300, -4, 0, 300]), 3, (0, 255)).tolist() == [0, 0, 3, 255]
    assert integer.to_codes(np.array([2**40]), 0, (0, 15)).tolist() == [15]


def test_both_branches_are_rounded_before_they_are_added() -> None:  # N43
    maps = [CodeMap(name, (1, 1, 1)) for name in "aby"]
    half = one(1, 1)
    add = Add(Branch(maps[0], half), Branch(maps[1], half), maps[2])
    # 0.5 and 0.5 round up to 1 each; their sum would be 1.
    assert add.run(np.array([[[[1]]]]), np.array([[[[1]]]])).item() == 2


def test_the_mean_is_one_dyadic_number() -> None:  # N44
    x, y = CodeMap("x", (2, 2, 1), 8, False, 1), CodeMap("y", (1, 1, 1))
    mean = GlobalAveragePool(x, y, one(1, 2))
    assert mean.run(np.array([2, 3, 4, 5]).reshape(1, 2, 2, 1)).item() == 3  # 10 / 4 = 2.5


def test_the_maximum_leaves_padding_out() -> None:  # N22
    x = CodeMap("x", (2, 2, 1), 8, True, 0)
    pool = MaxPool(x, CodeMap("y", (2, 2, 1), 8, True, 0), Window((3, 3), pads=(1, 1, 1, 1)))
    assert pool.run(np.full((1, 2, 2, 1), -128)).max() == -128


def test_a_graph_runs_its_nodes_in_order() -> None:
    x, y = CodeMap("x", (2, 2, 1)), CodeMap("y", (1, 1, 1))
    z = CodeMap("z", (1, 1, 1), 32)
    weight = np.full((1, 1, 1, 1), 2, np.int8)
    dense = Conv(y, z, weight, np.array([5], np.int32), None)
    graph = IntegerGraph(x, (GlobalAveragePool(x, y, one(1, 2)), dense))
    values = graph.run(np.full((3, 2, 2, 1), 7))
    assert values["y"].ravel().tolist() == [7, 7, 7]
    assert values["z"].ravel().tolist() == [19, 19, 19]
