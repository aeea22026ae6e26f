# SPDX-License-Identifier: Apache-2.0
"""A whole CUDA plan on the emulator: every kernel in order, on the arrays of the one before."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qcompile.integer_graph import CodeMap
from qcompile.targets.tvm import words
from qcompile.targets.tvm.cuda_build import launch_of, source_of
from qcompile.targets.tvm.cuda_emulator import Emulator
from qcompile.targets.tvm.plan import Plan, Step, code_kind


class EmulatedPlan:
    """The kernels of a plan, compiled once for the CPU."""

    def __init__(self, plan: Plan, source: str | None = None) -> None:
        self.plan = plan
        self._emulator = Emulator(source_of(plan) if source is None else source)

    def run(self, codes: NDArray, *, is_backward: bool = False) -> dict[str, NDArray]:
        """Every array of the device by name; codes as the plan's input."""
        arrays = {self.plan.input_name: np.ascontiguousarray(codes, self.plan.input_kind)}
        for step in self.plan.steps:
            arrays[step.output] = self._run(step, arrays, is_backward=is_backward)
        return arrays

    def each(
        self, values: dict[str, NDArray], chosen: frozenset[str] | None = None
    ) -> Iterator[tuple[str, NDArray, NDArray]]:
        """Name, result and expectation of every kernel by itself, on the maps that numerics gives.

        values: codes or sums of every map by name, a whole batch. chosen: maps that are made, or
        None for all; packing and unpacking always run.
        """
        graph = self.plan.graph
        maps = {x.name: x for x in (graph.input, *(node.y for node in graph.nodes))}
        arrays = {name: held(values[name], x) for name, x in maps.items()}
        for x in (graph.input, graph.output):  # at the border codes are bytes
            arrays[f"{x.name}_codes"] = np.ascontiguousarray(values[x.name], code_kind(x))
        for step in self.plan.steps:
            if chosen is not None and step.node is not None and step.output not in chosen:
                continue
            found, made = self._run(step, arrays), maps.get(step.output)
            if made is None:
                yield step.name, found, arrays[step.output]
            else:  # what fills up the last word means nothing
                yield step.name, unpacked(found, made), values[made.name]

    def _run(self, step: Step, arrays: dict[str, NDArray], *, is_backward: bool = False) -> NDArray:
        y = np.full(step.shape, 0x55, step.kind)
        named = {"y": y}
        for name, source in step.arguments:
            named[name] = arrays[source] if isinstance(source, str) else source
        kernel, launch = f"{step.name}_kernel", launch_of(step.function)
        self._emulator.run(kernel, launch, named, is_backward=is_backward)
        return y

    def codes(self, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        """Every map of the graph by name, unpacked."""
        nodes = self.plan.graph.nodes
        return {node.y.name: unpacked(arrays[node.y.name], node.y) for node in nodes}


def unpacked(array: NDArray, x: CodeMap) -> NDArray:
    """The codes of a map from words, or its sums."""
    if x.bits == 32:
        return array
    return words.unpack(array, x.bits, x.shape[2], is_signed=x.is_signed)


def held(values: NDArray, x: CodeMap) -> NDArray[np.int32]:
    """A map as the device holds it: words, or sums."""
    return np.ascontiguousarray(values if x.bits == 32 else words.pack(values, x.bits), np.int32)
