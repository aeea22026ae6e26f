# SPDX-License-Identifier: Apache-2.0
"""A whole CUDA plan on the emulator: every kernel in order, on the arrays of the one before."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.integer_graph import CodeMap
from qcompile.targets.tvm import words
from qcompile.targets.tvm.cuda_build import launch_of, source_of
from qcompile.targets.tvm.cuda_emulator import Emulator
from qcompile.targets.tvm.plan import Plan, Step, code_kind

POISON = 0x55  # every byte of an output before its kernel runs


@dataclass(frozen=True)
class Emulated:
    """A kernel by itself: what it made and what it should have, both of the maps' elements.

    num_blocks: that ran. num_silent: those that wrote nothing, where not all ran.
    """

    name: str
    found: NDArray
    expected: NDArray
    num_blocks: int
    num_silent: int = 0

    @property
    def num_wrong(self) -> int:
        """Elements that differ; all where a block wrote nothing."""
        if self.num_silent:
            return self.found.size
        return int((self.found != self.expected).sum())


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
        self, values: dict[str, NDArray], share: float = 1.0, least: int = 1
    ) -> Iterator[Emulated]:
        """Every kernel by itself, on the maps that numerics gives.

        values: codes or sums of every map by name, a whole batch. share: of each kernel's blocks
        that run, at least `least`; the elements of the others are taken from values.
        """
        graph = self.plan.graph
        maps = {x.name: x for x in (graph.input, *(node.y for node in graph.nodes))}
        arrays = {name: held(values[name], x) for name, x in maps.items()}
        for x in (graph.input, graph.output):  # at the border codes are bytes
            arrays[f"{x.name}_codes"] = np.ascontiguousarray(values[x.name], code_kind(x))
        for step in self.plan.steps:
            total = launch_of(step.function).num_blocks
            stride = max(1, total // max(least, round(share * total)))
            blocks, silent = sorted({*range(0, total, stride), total - 1}), 0
            expected = arrays[step.output]
            if stride == 1:
                found = self._run(step, arrays)
            else:
                found, silent = self._sample(step, arrays, blocks)
                found = np.where(found != poisoned(step), found, expected.reshape(found.shape))
            if made := maps.get(step.output):  # what fills up the last word means nothing
                found, expected = unpacked(found, made), values[made.name]
            yield Emulated(step.name, found, expected, len(blocks), silent)

    def _run(self, step: Step, arrays: dict[str, NDArray], *, is_backward: bool = False) -> NDArray:
        kernel, named = f"{step.name}_kernel", self._named(step, arrays)
        self._emulator.run(kernel, launch_of(step.function), named, is_backward=is_backward)
        return named["y"]

    def _sample(
        self, step: Step, arrays: dict[str, NDArray], blocks: list[int]
    ) -> tuple[NDArray, int]:
        """What these blocks make of a poisoned array, and how many of them wrote nothing."""
        kernel, named, untouched = f"{step.name}_kernel", self._named(step, arrays), poisoned(step)
        silent, before = 0, 0
        for block in blocks:
            self._emulator.run(kernel, launch_of(step.function), named, block=block)
            after = int((named["y"] != untouched).sum())
            silent += after == before
            before = after
        return named["y"], silent

    def _named(self, step: Step, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        """The arrays of a kernel by their parameters; y is poisoned."""
        named = {"y": poisoned(step)}
        for name, source in step.arguments:
            named[name] = arrays[source] if isinstance(source, str) else source
        return named

    def codes(self, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        """Every map of the graph by name, unpacked."""
        nodes = self.plan.graph.nodes
        return {node.y.name: unpacked(arrays[node.y.name], node.y) for node in nodes}


def poisoned(step: Step) -> NDArray:
    """The array that a step makes, before it is made."""
    y = np.empty(step.shape, step.kind)
    y.view(np.uint8)[...] = POISON
    return y


def unpacked(array: NDArray, x: CodeMap) -> NDArray:
    """The codes of a map from words, or its sums."""
    if x.bits == 32:
        return array
    return words.unpack(array, x.bits, x.shape[2], is_signed=x.is_signed)


def held(values: NDArray, x: CodeMap) -> NDArray[np.int32]:
    """A map as the device holds it: words, or sums."""
    return np.ascontiguousarray(values if x.bits == 32 else words.pack(values, x.bits), np.int32)
