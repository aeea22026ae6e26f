# SPDX-License-Identifier: Apache-2.0
"""tvm-cpu: integer-only networks on a CPU through TVM's LLVM, to run with TVM's runtime alone."""

from pathlib import Path

from qcompile.integer_graph import Conv, IntegerGraph
from qcompile.passes import LOWER_INTEGER
from qcompile.targets.target import Built, Compiler, Request, Target
from qcompile.targets.tvm.requests import is_narrow, refuse
from qcompile.targets.tvm.toolchain import compiler, require_tvm, runtime_libraries


def check() -> None:
    """UnsupportedError without TVM or a C++ compiler, which links the library."""
    require_tvm()
    compiler()


def build(graph: IntegerGraph, path: Path, cpu: str | None = None) -> Built:
    """Writes the library of a graph; tvm.run.Library runs it on uint8 or int8 codes.

    cpu is LLVM's name of a processor, by default what this machine says that it can.
    """
    check()
    from qcompile.targets.tvm import llvm_build
    from qcompile.targets.tvm.llvm_dot import dot_of
    from qcompile.targets.tvm.relax_module import export

    built = llvm_build.build(graph, cpu)
    export(built.executable, path)
    names = [dot_of(n, built.dot).name if isinstance(n, Conv) else "loops" for n in graph.nodes]
    rows = tuple(
        {"node": node.y.name, "instruction": name}
        for node, name in zip(graph.nodes, names, strict=True)
    )
    needed = llvm_build.host_needs() if cpu is None else ()
    return Built(tuple(runtime_libraries("cpu")), needed, kernels=rows)


def kernel(request: Request) -> str:
    """What runs the request, as `--dry-run` names it."""
    return f"LLVM {'int4 weights' if is_narrow(request) else 'int8'}"


TVM_CPU = Target(
    "tvm-cpu",
    "a library for this CPU by TVM's LLVM, integer-only, without ONNX Runtime (extra: tvm)",
    needs_library=True,
    refuse=refuse,
    kernel=kernel,
    lower=LOWER_INTEGER,
    packs=True,
    lower_integer=LOWER_INTEGER,
    has_row_ops=False,
    compiler=Compiler("cpu", check, build),
)
