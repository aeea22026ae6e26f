# SPDX-License-Identifier: Apache-2.0
"""Compiles a plan for sm_75 with nvcc, on any machine: GPU code, source, launches, registers."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from qcompile.targets.tvm.cuda_emulator import Launch
from qcompile.targets.tvm.cuda_runtime import gpu_code_by, is_loaded
from qcompile.targets.tvm.plan import Plan
from qcompile.targets.tvm.ptxas import Resources, parse
from qcompile.targets.tvm.relax_module import relax_module, relax_passes
from qcompile.targets.tvm.toolchain import nvcc, run

ARCH = "75"
# The fatbin holds machine code for a T4, and PTX from which the driver compiles for newer GPUs.
NVCC_FLAGS = (
    "-O3",
    "-fatbin",
    f"-gencode=arch=compute_{ARCH},code=[sm_{ARCH},compute_{ARCH}]",
    "-Xptxas=-v",
    "-diag-suppress=177",  # TVM names subexpressions that it does not use
)


@dataclass(frozen=True)
class CudaBuild:
    """A compiled plan: Relax executable, CUDA source, and what ptxas said of each kernel."""

    plan: Plan
    executable: Any
    source: str
    resources: dict[str, Resources]

    def launches(self) -> dict[str, Launch]:
        """The blocks and threads of every kernel."""
        return {step.name: launch_of(step.function) for step in self.plan.steps}


def build(plan: Plan) -> CudaBuild:
    """Compiles every kernel; UnsupportedError without nvcc."""
    nvcc()
    logs: list[tuple[str, str]] = []
    with gpu_code_by(lambda source: _fatbin(source, logs)), cuda_target() as target:
        executable = tvm.compile(
            relax_module(plan),
            target=target,
            relax_pipeline=relax_passes(),
            tir_pipeline="tirx",
        )
    (source, log) = logs[0]
    return CudaBuild(plan, executable, source, parse(log))


def source_of(plan: Plan) -> str:
    """The CUDA source of all kernels; needs no nvcc."""
    functions = {step.name: step.function for step in plan.steps}
    named = {n: f.with_attr("global_symbol", n) for n, f in functions.items()}
    seen: list[str] = []

    def keep(source: str) -> bytes:
        seen.append(source)
        return b""

    # TVM keeps the source as it is only where its CUDA runtime is not loaded.
    with gpu_code_by(keep) if is_loaded() else nullcontext(), cuda_target() as target:
        library = tvm.compile(tvm.IRModule(named), target=target, tir_pipeline="tirx")
    return seen[0] if seen else str(library.mod.imports[0].inspect_source("cuda"))


def ptx_of(source: str) -> str:
    """The PTX for compute_75."""
    return _nvcc(source, ["-ptx", f"-arch=compute_{ARCH}", "-O3"], "ptx")[0].decode()


@contextmanager
def cuda_target() -> Iterator[Any]:
    """sm_75 with a host of LLVM, as the current target."""
    target = tvm.target.Target({"kind": "cuda", "arch": f"sm_{ARCH}"}, host={"kind": "llvm"})
    with target:
        yield target


def launch_of(function: Any) -> Launch:
    """Blocks and threads, as the function itself asks for them."""
    extents = {"blockIdx.x": 1, "blockIdx.y": 1, "blockIdx.z": 1, "threadIdx.x": 1}

    def visit(statement: Any) -> None:
        if isinstance(statement, tirx.SeqStmt):
            for each in statement.seq:
                visit(each)
        elif isinstance(statement, tirx.AttrStmt):
            if statement.attr_key == "thread_extent":
                extents[statement.node.thread_tag] = int(statement.value)
            visit(statement.body)

    visit(function.body)
    x, y, z, threads = extents.values()
    return Launch((x, y, z), threads)


def _fatbin(source: str, logs: list[tuple[str, str]]) -> bytes:
    data, log = _nvcc(source, list(NVCC_FLAGS), "fatbin")
    logs.append((source, log))
    return data


def _nvcc(source: str, flags: list[str], suffix: str) -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory(prefix="qcompile-nvcc-") as folder:
        text, result = Path(folder, "kernels.cu"), Path(folder, f"kernels.{suffix}")
        text.write_text(source)
        log = run([nvcc(), *flags, str(text), "-o", str(result)])
        return result.read_bytes(), log
