# SPDX-License-Identifier: Apache-2.0
"""t4: integer-only networks on an NVIDIA T4 (sm_75) by int8 and int4 tensor cores, through TVM.

Building needs TVM, nvcc and a C++ compiler, and no GPU. The kernels were not run on a GPU yet: the
emulator executes the generated CUDA source lane by lane, and ptxas says what it uses.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from qcompile.integer_graph import IntegerGraph
from qcompile.passes import LOWER_INTEGER
from qcompile.targets.target import Built, Compiler, Request, Target
from qcompile.targets.tvm.requests import is_narrow, refuse
from qcompile.targets.tvm.toolchain import compiler, nvcc, require_tvm, runtime_libraries

if TYPE_CHECKING:
    from qcompile.targets.tvm.emulated import EmulatedPlan

MINIMUM_DRIVER = 580  # of CUDA 13, whose runtime TVM's wheel links


def check() -> None:
    """UnsupportedError without TVM, nvcc of CUDA 13 or a C++ compiler."""
    require_tvm()
    compiler()
    runtime_libraries("cuda")


def build(graph: IntegerGraph, path: Path) -> Built:
    """Writes the library of a graph; tvm.run.Library(…, "cuda") runs it on uint8 or int8 codes.

    Beside it lie the CUDA source (.cu), which the emulator runs, and the PTX (.ptx) of its kernels.
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
    ptx = cuda_build.ptx_of(built.source)
    path.with_suffix(".ptx").write_text(ptx)
    rows = tuple(asdict(row) for row in report(built, ptx))
    return Built(tuple(runtime_libraries("cuda")), (), MINIMUM_DRIVER, rows)


def emulate(graph: IntegerGraph, source: str | None = None) -> "EmulatedPlan":
    """The same kernels on the CPU, lane by lane: slow, and bit for bit what a T4 computes.

    source: the CUDA source that `build` wrote for this graph.
    """
    require_tvm()
    compiler()
    from qcompile.targets.tvm import cuda_plan
    from qcompile.targets.tvm.emulated import EmulatedPlan

    return EmulatedPlan(cuda_plan.plan(graph), source)


def kernel(request: Request) -> str:
    """What runs the request, as `--dry-run` names it."""
    return f"CUDA {'int4' if is_narrow(request) else 'int8'} tensor cores"


T4 = Target(
    "t4",
    "a library for an NVIDIA T4 by TVM: tensor cores, integer-only (extra: tvm; nvcc)",
    needs_library=True,
    refuse=refuse,
    kernel=kernel,
    lower=LOWER_INTEGER,
    packs=True,
    lower_integer=LOWER_INTEGER,
    has_row_ops=False,
    compiler=Compiler("cuda", check, build, emulate),
)
