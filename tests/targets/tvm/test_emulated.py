# SPDX-License-Identifier: Apache-2.0
"""Some blocks of every kernel: what they write is compared, and that they write is required."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.integer_graph import CodeMap, Conv, IntegerGraph
from qcompile.targets import t4
from qcompile.targets.tvm.cuda_emulator import Launch
from qcompile.targets.tvm.emulated import Emulated
from tests.targets.tvm.nets import conv, window

LEAST = 4


@pytest.fixture(scope="module")
def graph() -> IntegerGraph:
    rng = np.random.default_rng(0)
    x = CodeMap("x", (32, 32, 16))
    return IntegerGraph(x, (conv(rng, x, "y", 32, window(3)),), batch=4)


def sampled(graph: IntegerGraph, values: dict[str, NDArray]) -> dict[str, Emulated]:
    return {k.name: k for k in t4.emulate(graph).each(values, 0.0, LEAST)}


def values_of(graph: IntegerGraph) -> dict[str, NDArray]:
    codes = np.random.default_rng(1).integers(0, 256, (graph.batch, *graph.input.shape))
    return graph.run(codes)


def test_some_blocks_of_each_kernel_are_compared(graph: IntegerGraph) -> None:
    found = sampled(graph, values_of(graph))
    assert len(found) == 3  # codes into words, the convolution, words into codes
    for kernel in found.values():
        assert kernel.num_wrong == 0 and LEAST <= kernel.num_blocks <= LEAST + 1


@pytest.mark.parametrize("row", [0, -1])
def test_a_wrong_number_in_the_first_or_the_last_block_is_found(
    graph: IntegerGraph, row: int
) -> None:
    values = values_of(graph)
    wrong = values["y"].copy()
    wrong[row, row, row] ^= 1
    found = sampled(graph, {**values, "y": wrong})
    assert [k.num_wrong > 0 for k in found.values()] == [False, True, False]


def test_a_kernel_of_other_weights_is_found(graph: IntegerGraph) -> None:
    node = graph.nodes[0]
    assert isinstance(node, Conv)
    weight = node.weight.copy()
    weight[0, 0, 0, 0] = -weight[0, 0, 0, 0] - 1
    other = replace(graph, nodes=(replace(node, weight=weight),))
    wrong = [k.num_wrong > 0 for k in sampled(other, values_of(graph)).values()]
    assert wrong == [False, True, False]


def test_blocks_that_write_nothing_are_wrong() -> None:
    y = np.zeros((8, 8), np.int32)
    assert Emulated("k", y, y, 4, 0).num_wrong == 0
    assert Emulated("k", y, y, 4, 1).num_wrong == 64


def test_a_kernel_whose_last_block_does_nothing_is_found(graph: IntegerGraph) -> None:
    plan, values = t4.emulate(graph), values_of(graph)
    run = plan._emulator.run

    def lazy(kernel: str, launch: Launch, named: dict[str, NDArray], **flags: int) -> None:
        if flags["block"] != launch.num_blocks - 1:
            run(kernel, launch, named, **flags)

    plan._emulator.run = lazy  # type: ignore[method-assign, assignment]
    assert all(k.num_silent == 1 and k.num_wrong for k in plan.each(values, 0.0, LEAST))
