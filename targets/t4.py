# SPDX-License-Identifier: Apache-2.0
"""t4: integer-only networks on an NVIDIA T4 (sm_75) by int8 and int4 tensor cores, through TVM.

Building needs TVM, nvcc and a C++ compiler, and no GPU. The kernels were not run on a GPU yet: the
emulator executes the generated CUDA source lane by lane, and ptxas says what it uses.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from qcompile.integer_graph import IntegerGraph
from qcompile.targets.tvm.toolchain import compiler, nvcc, require_tvm

if TYPE_CHECKING:
    from qcompile.targets.tvm.emulated import EmulatedPlan
    from qcompile.targets.tvm.kernel_report import KernelReport

MINIMUM_DRIVER = 580  # of CUDA 13, whose runtime TVM's wheel links


def build(graph: IntegerGraph, path: Path) -> "list[KernelReport]":
    """Writes the library of a graph; runner.Runner(path, "cuda") runs it on uint8 or int8 codes.

    Beside it lie the CUDA source (.cu) and the PTX (.ptx) of its kernels.
    """
    require_tvm()
    nvcc()
    compiler()
    from qcompile.targets.tvm import cuda_build, cuda_plan
    from qcompile.targets.tvm.kernel_report import report
    from qcompile.targets.tvm.relax_module import export

    built = cuda_build.build(cuda_plan.plan(graph))
    export(built.executable, path)
    path.with_suffix(".cu").write_text(built.source)
    path.with_suffix(".ptx").write_text(cuda_build.ptx_of(built.source))
    return report(built)


def emulate(graph: IntegerGraph) -> "EmulatedPlan":
    """The same kernels on the CPU, lane by lane: slow, and bit for bit what a T4 computes."""
    require_tvm()
    compiler()
    from qcompile.targets.tvm import cuda_plan
    from qcompile.targets.tvm.emulated import EmulatedPlan

    return EmulatedPlan(cuda_plan.plan(graph))
