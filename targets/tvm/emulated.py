# SPDX-License-Identifier: Apache-2.0
"""A whole CUDA plan on the emulator: every kernel in order, on the arrays of the one before."""

import numpy as np
from numpy.typing import NDArray

from qcompile.targets.tvm import words
from qcompile.targets.tvm.cuda_build import launch_of, source_of
from qcompile.targets.tvm.cuda_emulator import Emulator
from qcompile.targets.tvm.plan import Plan


class EmulatedPlan:
    """The kernels of a plan, compiled once for the CPU."""

    def __init__(self, plan: Plan, source: str | None = None) -> None:
        self.plan = plan
        self._emulator = Emulator(source_of(plan) if source is None else source)

    def run(self, codes: NDArray, *, is_backward: bool = False) -> dict[str, NDArray]:
        """Every array of the device by name; codes as the plan's input."""
        arrays = {self.plan.input_name: np.ascontiguousarray(codes, self.plan.input_kind)}
        for step in self.plan.steps:
            y = np.full(step.shape, 0x55, step.kind)
            named = {"y": y}
            for name, source in step.arguments:
                named[name] = arrays[source] if isinstance(source, str) else source
            kernel, launch = f"{step.name}_kernel", launch_of(step.function)
            self._emulator.run(kernel, launch, named, is_backward=is_backward)
            arrays[step.output] = y
        return arrays

    def codes(self, arrays: dict[str, NDArray]) -> dict[str, NDArray]:
        """Every map of the graph by name, unpacked."""
        nodes = self.plan.graph.nodes
        return {
            y.name: arrays[y.name]
            if y.bits == 32
            else words.unpack(arrays[y.name], y.bits, y.shape[2], is_signed=y.is_signed)
            for y in (node.y for node in nodes)
        }
