# SPDX-License-Identifier: Apache-2.0
"""Packing, pooling, adding and the thin product on CUDA, lane by lane, equal numerics."""

import numpy as np
import pytest

from qcompile.integer_graph import (
    Add,
    CodeMap,
    Excerpt,
    GlobalAveragePool,
    IntegerGraph,
    Lookup,
    MaxPool,
    Node,
)
from qcompile.numerics.conv import Window
from qcompile.targets.tvm.cuda_plan import plan
from qcompile.targets.tvm.emulated import EmulatedPlan
from qcompile.targets.tvm.tile import Tile
from tests.targets.tvm.nets import codes_of, conv, pair, residual_net, scale, window


def differences(graph: IntegerGraph) -> dict[str, int]:
    """Codes that differ from numerics by map, and those of the unpacked output."""
    made = plan(graph, lambda node, batch: Tile(1, 1, 1, 1, 4))
    codes = codes_of(np.random.default_rng(1), graph.input, graph.batch)
    emulated = EmulatedPlan(made)
    arrays = emulated.run(codes)
    expected, found = graph.run(codes), emulated.codes(arrays)
    counts = {name: int((found[name] != expected[name]).sum()) for name in found}
    last = arrays[made.steps[-1].output]
    counts["output"] = int((last != expected[graph.output.name]).sum())
    assert len(np.unique(last)) > 4, "the test must see a range"
    return counts


def pools(x: CodeMap) -> list[Node]:
    shapes = [window(3, 2), window(2, 2, 0), Window((1, 5), (1, 1), (0, 2, 0, 1))]
    return [
        MaxPool(
            x,
            CodeMap(
                f"max{i}",
                (*w.output_size(*x.shape[:2]), x.shape[2]),
                x.bits,
                x.is_signed,
                x.zero_point,
            ),
            w,
        )
        for i, w in enumerate(shapes)
    ]


@pytest.mark.parametrize(
    ("bits", "is_signed", "channels"), [(4, False, 5), (4, True, 8), (8, False, 9), (8, True, 3)]
)
def test_pools_and_sums(bits: int, is_signed: bool, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = CodeMap("x", (7, 6, channels), bits, is_signed, 2)
    mean = CodeMap("mean", (1, 1, channels), 12 - bits, not is_signed, 1)
    total = CodeMap("total", x.shape, bits, is_signed, 3)
    twice = Add(x, x, total, pair(rng, 0.2, 0.9), clip=(-6, 200))
    average = GlobalAveragePool(x, mean, scale(rng, channels, 1 / 42, 3 / 42))
    found = differences(IntegerGraph(x, (*pools(x), average, twice), 2))
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize(("bits", "is_signed"), [(4, False), (4, True), (8, False), (8, True)])
def test_excerpts(bits: int, is_signed: bool) -> None:
    """Strides, borders and channels that do not start at a word."""
    x = CodeMap("x", (7, 6, 13), bits, is_signed, 3)
    nodes = [
        Excerpt(
            x,
            CodeMap(f"y{i}", shape, bits, is_signed, 3),
            **dict(zip(("start", "step", "before", "count"), where, strict=True)),
        )
        for i, (shape, where) in enumerate(
            [
                ((4, 3, 29), ((0, 0, 0), (2, 2, 1), (0, 0, 8), (4, 3, 13))),
                ((3, 2, 5), ((1, 2, 2), (3, 3, 2), (1, 0, 0), (2, 2, 5))),
                ((9, 8, 14), ((0, 0, 0), (1, 1, 1), (1, 1, 1), (7, 6, 13))),
            ]
        )
    ]
    found = differences(IntegerGraph(x, tuple(nodes), 2))
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize(
    "channels", [1, 9, *(pytest.param(count, marks=pytest.mark.slow) for count in (7, 8))]
)
@pytest.mark.parametrize(("bits", "y_bits"), [(8, 4), (8, 8), (4, 8), (4, 4)])
def test_tables(bits: int, y_bits: int, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = CodeMap("x", (3, 5, channels), bits)
    table = rng.integers(0, 1 << y_bits, 256).astype(np.uint8)
    found = differences(IntegerGraph(x, (Lookup(x, CodeMap("y", x.shape, y_bits), table),), 2))
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize("is_signed", [False, True])
def test_thin_products(is_signed: bool) -> None:
    """Few rows go to dp4a: a classifier, codes and sums, windows that read beyond the map."""
    rng = np.random.default_rng(0)
    x = CodeMap("x", (3, 2, 21), 8, is_signed, 11)
    residual = CodeMap("codes", (1, 1, 37), 8, False, 5)
    nodes = (
        conv(rng, x, "sums", 33, Window((3, 2)), bits=32),
        conv(rng, x, "codes", 37, Window((3, 2)), zero_point=5),
        conv(rng, x, "padded", 40, Window((4, 3), pads=(1, 0, 0, 1))),
        conv(
            rng,
            x,
            "added",
            37,
            Window((3, 2)),
            bits=4,
            residual=residual,
        ),
    )
    graph = IntegerGraph(x, nodes, 3)
    kernels = [step.function.script() for step in plan(graph).steps]
    assert sum("qc_dp4a" in text for text in kernels) == len(nodes)
    found = differences(graph)
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_whole_network(bits: int) -> None:
    found = differences(residual_net(bits, batch=2))
    assert len(found) == 10
    assert found == dict.fromkeys(found, 0)


def test_a_broken_table_is_found() -> None:
    graph = residual_net(8, batch=1)
    made = plan(graph)
    dict(made.steps[-1].arguments)["channels"][2, 0] += 1
    codes = codes_of(np.random.default_rng(1), graph.input, 1)
    emulated = EmulatedPlan(made)
    found = emulated.codes(emulated.run(codes))["logits"]
    assert (found != graph.run(codes)["logits"]).sum() == 1
