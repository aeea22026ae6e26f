# SPDX-License-Identifier: Apache-2.0
"""What was built, kernel by kernel: instruction, registers, occupancy, roofline."""

import math
import re
from dataclasses import dataclass

from qcompile.targets.tvm.cuda_build import CudaBuild, launch_of
from qcompile.targets.tvm.roofline import roof


@dataclass(frozen=True)
class KernelReport:
    """One kernel as compiled for sm_75, and the roofline of its layer (None for packing)."""

    name: str
    instruction: str
    blocks: int
    threads: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    occupancy: float
    roofline_seconds: float | None
    bound: str


def report(built: CudaBuild) -> list[KernelReport]:
    """What the user reads: resources and roofline of every kernel, in the order of the plan."""
    rows = []
    for step in built.plan.steps:
        used, launch = built.resources[step.name], launch_of(step.function)
        limit = None if step.node is None else roof(step.node, built.plan.graph.batch)
        rows.append(
            KernelReport(
                name=step.name,
                instruction=instruction_of(built.source, step.name),
                blocks=math.prod(launch.grid),
                threads=launch.threads,
                registers=used.registers,
                shared_bytes=used.shared_bytes,
                spill_bytes=used.spill_bytes,
                occupancy=used.occupancy(launch.threads),
                roofline_seconds=None if limit is None else limit.seconds,
                bound="" if limit is None else limit.bound,
            )
        )
    return rows


def instruction_of(source: str, name: str) -> str:
    """The product that a kernel calls: its PTX name, or nothing."""
    kernels = re.split(r'(?=extern "C" __global__)', source)
    body = next(k for k in kernels if f" {name}_kernel(" in k and ") {" in k)
    called = re.search(r"\b(qc_\w+)\(", body)
    if called is None:
        return ""
    assembly = re.search(rf"{called[1]}\([^)]*\) {{[^}}]*?asm[^\"]*\"([\w.]+)", source)
    return assembly[1] if assembly else ""
