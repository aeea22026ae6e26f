# SPDX-License-Identifier: Apache-2.0
"""Compiles a graph for a CPU with TVM's LLVM."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from qcompile.errors import InputError, nearest
from qcompile.integer_graph import IntegerGraph
from qcompile.targets.tvm.llvm_dot import Dot, dot_for
from qcompile.targets.tvm.llvm_plan import plan
from qcompile.targets.tvm.relax_module import relax_module, relax_passes

# Flags of /proc/cpuinfo that LLVM's levels of x86-64 stand for. LLVM's own host_cpu goes by the
# model: on a virtual machine that hides AVX-512 it would name a processor that has it.
V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
V4 = V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
CPUINFO = Path("/proc/cpuinfo")


def host_target() -> Any:
    """TVM's target for this machine, by what the machine says that it can."""
    if platform.machine() != "x86_64":
        return llvm_target(str(tvm.target.codegen.llvm_get_system_cpu()))
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    flags = next((set(x.split(":")[1].split()) for x in lines if x.startswith("flags")), set())
    return tvm.target.Target({"kind": "llvm", **level(frozenset(flags))})


def host_needs() -> tuple[str, ...]:
    """The flags of /proc/cpuinfo that code for this machine relies on."""
    if platform.machine() != "x86_64" or not CPUINFO.exists():
        return ()
    flags = set(CPUINFO.read_text().split())
    needed = V4 if flags >= V4 else V3 if flags >= V3 else frozenset()
    vnni = {"avx512_vnni"} & flags if needed == V4 else set()
    return tuple(sorted(needed | vnni))


def level(flags: frozenset[str]) -> dict[str, Any]:
    """LLVM's processor, and what goes beyond it, for flags of /proc/cpuinfo.

    >>> level(V3), level(V4 | {"avx512_vnni"})
    ({'mcpu': 'x86-64-v3'}, {'mcpu': 'x86-64-v4', 'mattr': ['+avx512vnni']})
    """
    if flags >= V4:
        vnni = {"mattr": ["+avx512vnni"]} if "avx512_vnni" in flags else {}
        return {"mcpu": "x86-64-v4", **vnni}
    return {"mcpu": "x86-64-v3" if flags >= V3 else "x86-64"}


def llvm_target(cpu: str) -> Any:
    """TVM's target for a processor of that name; InputError where LLVM knows none."""
    generic = tvm.target.Target({"kind": "llvm"})
    known = {str(name) for name in tvm.target.codegen.llvm_get_cpu_archlist(generic)}
    if cpu not in known:
        raise InputError(f'LLVM knows no processor "{cpu}": {nearest(cpu, sorted(known))}')
    return tvm.target.Target({"kind": "llvm", "mcpu": cpu})


def features(target: Any) -> frozenset[str]:
    """LLVM's names of the instruction sets of a target."""
    found = tvm.target.codegen.llvm_get_cpu_features(target)
    return frozenset(str(name) for name in found)


@dataclass(frozen=True)
class LlvmBuild:
    """A compiled graph: the Relax executable and the dot product that its kernels use."""

    executable: Any
    dot: Dot

    @property
    def assembly(self) -> str:
        """The machine code of the kernels as text."""
        return str(self.executable.mod.imports[0].inspect_source("asm"))


def build(graph: IntegerGraph, cpu: str | None = None, dot: Dot | None = None) -> LlvmBuild:
    """Compiles for a processor (default: this one), with its best dot product."""
    target = host_target() if cpu is None else llvm_target(cpu)
    chosen = dot_for(features(target)) if dot is None else dot
    module = relax_module(plan(graph, chosen))
    with target:
        executable = tvm.compile(module, target=target, relax_pipeline=relax_passes())
    return LlvmBuild(executable, chosen)
