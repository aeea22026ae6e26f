# SPDX-License-Identifier: Apache-2.0
"""What an integer-only graph refuses, with the object and the numbers."""

from typing import Any

import numpy as np
import pytest

from qcompile.errors import InputError
from qcompile.integer_graph import (
    Add,
    Branch,
    CodeMap,
    Conv,
    GlobalAveragePool,
    IntegerGraph,
    MaxPool,
)
from qcompile.numerics.conv import Window
from qcompile.numerics.integer import Dyadic

HALF = Dyadic(np.array([1], np.int32), np.array([1], np.int32))
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
        ({"scale": None}, "sums have no scale, and codes have one"),
        ({"y": CodeMap("y", (4, 4, 2), 32)}, "sums have no scale"),
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
        ({"residual": Branch(X, HALF)}, r"codes \(4, 4, 8\) are not added to \(4, 4, 2\)"),
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
        (lambda: Add(Branch(X, HALF), Branch(Y, HALF), Y), "are not added"),
        (lambda: IntegerGraph(X, ()), "a graph of 0 nodes"),
        (lambda: IntegerGraph(X, (conv(),), batch=0), "batch 0 is empty"),
        (lambda: IntegerGraph(Y, (conv(),)), "reads .*name='x'.* which no earlier node makes"),
        (lambda: IntegerGraph(X, (conv(), conv())), "two tensors are named y"),
    ],
)
def test_other_nodes_and_graphs(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
