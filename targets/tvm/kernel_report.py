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
    node: str
    instruction: str
    blocks: int
    threads: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    occupancy: float
    roofline_seconds: float | None
    bound: str


def report(built: CudaBuild, ptx: str) -> list[KernelReport]:
    """What the user reads: resources and roofline of every kernel, in the order of the plan."""
    rows = []
    for step in built.plan.steps:
        used, launch = built.resources[step.name], launch_of(step.function)
        limit = None if step.node is None else roof(step.node, built.plan.graph.batch)
        rows.append(
            KernelReport(
                name=step.name,
                node=step.output,
                instruction=instruction_of(ptx, step.name),
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


def instruction_of(ptx: str, name: str) -> str:
    """The product that a kernel's PTX holds, or nothing.

    >>> instruction_of(".entry a_kernel(){ dp4a.s32.s32 %r1, %r2; } .entry b_kernel(){ }", "a")
    'dp4a.s32.s32'
    """
    body = next(p for p in ptx.split(".entry ") if p.startswith(f"{name}_kernel("))
    found = re.search(r"(?:mma\.sync|dp4a)[\w.]*", body)
    return found[0] if found else ""
