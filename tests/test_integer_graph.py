# SPDX-License-Identifier: Apache-2.0
"""What an integer-only graph refuses, with the object and the numbers."""

from typing import Any

import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.integer_graph import (
    Add,
    CodeMap,
    Conv,
    Excerpt,
    GlobalAveragePool,
    IntegerGraph,
    Lookup,
    MaxPool,
    Residual,
)
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import DyadicPair
from qcompile.numerics.requantize import Dyadic

HALF = Dyadic(np.array([1], np.int32), np.array([1], np.int32))
HALVES = DyadicPair(1, 1, 1)
X = CodeMap("x", (4, 4, 8))
Y = CodeMap("y", (4, 4, 2))
WEIGHT = np.ones((2, 1, 1, 8), np.int8)
BIAS = np.zeros(2, np.int32)


def conv(**changes: Any) -> Conv:
    return Conv(**{"x": X, "y": Y, "weight": WEIGHT, "bias": BIAS, "scale": HALF, **changes})


def test_the_parts_fit() -> None:
    graph = IntegerGraph(X, (conv(),), batch=2)
    assert graph.output == Y
    assert graph.run(np.full((2, 4, 4, 8), 3))["y"].tolist() == np.full((2, 4, 4, 2), 12).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "m: codes of 5 bits; there are 4, 8 and 32"),
        ({"shape": (0, 4, 1)}, r"m: the map \(0, 4, 1\) is empty"),
        ({"bits": 4, "zero_point": 16}, "m: zero point 16 is not in 0 … 15"),
        ({"is_signed": True, "zero_point": -129}, "m: zero point -129 is not in -128 … 127"),
    ],
)
def test_maps(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CodeMap(**{"name": "m", "shape": (1, 1, 1), **arguments})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.ones((2, 1, 1, 7), np.int8)}, r"y: \(4, 4, 8\) by weights \(2, 1, 1, 7\)"),
        ({"y": CodeMap("y", (4, 4, 3))}, r"gives \(4, 4, 2\), not \(4, 4, 3\)"),
        ({"window": Window((1, 1), dilations=(2, 2))}, "no kernel for dilations"),
        ({"x": CodeMap("x", (4, 4, 8), 4)}, "weights of 8 bits on codes of 4"),
        ({"weight_bits": 4, "weight": WEIGHT * 8}, "a weight is no code of 4 bits"),
        ({"bias": np.array([0, 2**31 - 1], np.int32)}, "sums of output 1 reach 214748.*beyond"),
        (
            {"scale": Dyadic(np.ones(3, np.int32), np.ones(3, np.int32))},
            r"\(3,\) multipliers for 2 channels",
        ),
        (
            {"scale": Dyadic(np.array([-1], np.int32), np.array([1], np.int32))},
            r"multipliers are 0 … 2\^31 − 1",
        ),
        (
            {"scale": Dyadic(np.array([1], np.int32), np.array([63], np.int32))},
            "exponents 1 … 62",
        ),
        (
            {"residual": Residual(Y, X, HALVES)},
            r"codes \(4, 4, 8\) are not added to \(4, 4, 2\)",
        ),
        (
            {"residual": Residual(Y, Y, HALVES), "y": CodeMap("y", (4, 4, 2), 32)},
            "are not added",
        ),
        ({"residual": Residual(Y, Y, DyadicPair(1, 1, 63))}, "exponents 1 … 62"),
    ],
)
def test_convolutions(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        conv(**changes)


def test_a_sum_that_just_fits_is_taken() -> None:
    """Σ |w| · 255 + |bias| = 8 · 255 + bias may be 2^31 − 1, and no more."""
    limit = 2**31 - 1 - 8 * 255
    conv(bias=np.array([limit, -limit], np.int32))
    with pytest.raises(InputError, match="reach 2147483648, beyond int32"):
        conv(bias=np.array([0, -limit - 1], np.int32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxPool(X, Y, Window((2, 2), (2, 2))), "the maximum of"),
        (
            lambda: MaxPool(X, CodeMap("y", (6, 6, 8)), Window((1, 1), pads=(1, 1, 1, 1))),
            r"pads \(1, 1, 1, 1\) leave a window of \(1, 1\) empty",
        ),
        (lambda: GlobalAveragePool(X, Y, HALF), r"is codes \(1, 1, 8\)"),
        (lambda: Add(X, Y, Y, HALVES), "are not added"),
        (lambda: Excerpt(X, Y, count=(4, 4, 3)), "leaves the map"),
        (lambda: Excerpt(X, Y, start=(1, 0, 0), count=(4, 4, 2)), "leaves the map"),
        (lambda: Excerpt(X, CodeMap("y", (4, 4, 2), 4)), "the excerpt of"),
        (lambda: IntegerGraph(X, ()), "a graph of 0 nodes"),
        (lambda: IntegerGraph(X, (conv(),), batch=0), "batch 0 is empty"),
        (lambda: IntegerGraph(Y, (conv(),)), "reads .*name='x'.* which no earlier node makes"),
        (lambda: IntegerGraph(X, (conv(), conv())), "two tensors are named y"),
    ],
)
def test_other_nodes_and_graphs(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (1, 1), (2, 1)])
def test_a_convolution_is_its_loops(stride: int, pad: int) -> None:  # N10, N17, N41
    """Sums of one half up, against Python's integers; the folded bias replaces the zero point."""
    rng = np.random.default_rng(stride + pad)
    x, w = rng.integers(0, 256, (2, 5, 4, 3)), rng.integers(-128, 128, (4, 3, 3, 3))
    bias = rng.integers(-99, 99, 4).astype(np.int32)
    window = Window((3, 3), (stride, stride), (pad,) * 4)
    size = window.output_size(5, 4)
    maps = CodeMap("x", (5, 4, 3), 8, False, 7), CodeMap("y", (*size, 4), 32)
    node = Conv(*maps, w.astype(np.int8), bias, HALF, window)
    y = node.run(x)
    for b, i, j, n in np.ndindex(*y.shape):
        total, folded = int(bias[n]), int(node.folded_bias[n])
        for di, dj, c in np.ndindex(3, 3, 3):
            r, s = i * stride - pad + di, j * stride - pad + dj
            inside = 0 <= r < 5 and 0 <= s < 4
            code = int(x[b, r, s, c]) if inside else 7
            total += (code - 7) * int(w[n, di, dj, c])
            folded += code * int(w[n, di, dj, c])
        assert total == folded
        assert y[b, i, j, n] == (total + 1) // 2


def test_a_residual_is_an_add_of_the_codes() -> None:  # N18
    """A fused sum rounds twice, as two nodes do: once to the convolution's codes, once to y's."""
    own, other = CodeMap("own", (4, 4, 2), 8, False, 9), CodeMap("other", (4, 4, 2), 8, False, 3)
    y = CodeMap("y", (4, 4, 2), 4, False, 2)
    scale = DyadicPair.of(0.11, 0.07)
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (2, 1, 1, 8)).astype(np.int8)
    by = Dyadic(np.array([1, 3], np.int32), np.array([9, 10], np.int32))
    codes, added = rng.integers(0, 256, (3, 4, 4, 8)), rng.integers(0, 256, (3, 4, 4, 2))
    fused = conv(
        y=y, weight=weight, scale=by, residual=Residual(own, other, scale, (9, 255)), clip=(2, 13)
    )
    alone = conv(y=own, weight=weight, scale=by, clip=(9, 255))
    apart = Add(own, other, y, scale, (2, 13)).run(alone.run(codes), added)
    np.testing.assert_array_equal(fused.run(codes, added), apart)
    assert len(np.unique(apart)) > 6
    once = by.multiplier * 2.0**-by.exponent * (codes @ weight.reshape(2, 8).T)
    rounded_once = np.clip(np.rint(once * 0.11 + (added - 3) * 0.07) + 2, 2, 13)
    assert (rounded_once != apart).any(), "the two roundings must be seen"


def test_an_excerpt_is_slice_and_pad() -> None:
    x = np.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3)
    maps = CodeMap("x", (5, 4, 3), 8, False, 1), CodeMap("y", (3, 2, 7), 8, False, 1)
    node = Excerpt(*maps, step=(2, 2, 1), before=(0, 0, 2), count=(3, 2, 3))
    expected = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)), constant_values=1)
    np.testing.assert_array_equal(node.run(x), expected)


def test_a_table_gives_its_entries() -> None:  # N25
    y = CodeMap("y", X.shape, 4)
    table = (np.arange(256) // 16).astype(np.uint8)
    codes = np.arange(128).reshape(1, 4, 4, 8) * 2
    np.testing.assert_array_equal(Lookup(X, y, table).run(codes), codes // 16)


@pytest.mark.parametrize(
    ("x", "y", "entry", "message"),
    [
        (X, Y, 15, "y: no table of"),
        (CodeMap("x", (4, 4, 8), is_signed=True), CodeMap("y", (4, 4, 8), 4), 15, "y: no table of"),
        (X, CodeMap("y", (4, 4, 8), 4), 16, "y: entry 16 is no code of"),
    ],
)
def test_other_tables(x: CodeMap, y: CodeMap, entry: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Lookup(x, y, np.full(256, entry, np.uint8))
    with pytest.raises(InputError, match=r"y: \(255,\) entries"):
        Lookup(X, CodeMap("y", X.shape), np.zeros(255, np.uint8))


def test_the_mean_is_one_dyadic_number() -> None:  # N19
    x, y = CodeMap("x", (2, 2, 1), 8, False, 1), CodeMap("y", (1, 1, 1))
    quarter = Dyadic(np.array([1], np.int32), np.array([2], np.int32))
    mean = GlobalAveragePool(x, y, quarter)
    assert mean.run(np.array([2, 3, 4, 5]).reshape(1, 2, 2, 1)).item() == 3  # 10 / 4 = 2.5


def test_the_maximum_leaves_padding_out() -> None:  # N22
    x = CodeMap("x", (2, 2, 1), 8, True, 0)
    pool = MaxPool(x, CodeMap("y", (2, 2, 1), 8, True, 0), Window((3, 3), pads=(1, 1, 1, 1)))
    assert pool.run(np.full((1, 2, 2, 1), -128)).max() == -128


def test_a_graph_runs_its_nodes_in_order() -> None:
    x, y = CodeMap("x", (2, 2, 1)), CodeMap("y", (1, 1, 1))
    z = CodeMap("z", (1, 1, 1), 32)
    weight = np.full((1, 1, 1, 1), 2, np.int8)
    quarter = Dyadic(np.array([1], np.int32), np.array([2], np.int32))
    one = Dyadic(np.array([2], np.int32), np.array([1], np.int32))
    dense = Conv(y, z, weight, np.array([5], np.int32), one)
    graph = IntegerGraph(x, (GlobalAveragePool(x, y, quarter), dense))
    values = graph.run(np.full((3, 2, 2, 1), 7))
    assert values["y"].ravel().tolist() == [7, 7, 7]
    assert values["z"].ravel().tolist() == [19, 19, 19]
