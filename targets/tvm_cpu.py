# SPDX-License-Identifier: Apache-2.0
"""tvm-cpu: integer-only networks on a CPU through TVM's LLVM, to run with TVM's runtime alone."""

from pathlib import Path

from qcompile.integer_graph import IntegerGraph
from qcompile.targets.tvm.toolchain import compiler, require_tvm


def build(graph: IntegerGraph, path: Path, cpu: str | None = None) -> str:
    """Writes the library of a graph; gives the name of the dot product that it uses.

    cpu is LLVM's name of a processor, by default what this machine says that it can. The library is
    run by runner.Runner(path) on uint8 or int8 codes.
    """
    require_tvm()
    compiler()
    from qcompile.targets.tvm import llvm_build
    from qcompile.targets.tvm.relax_module import export

    built = llvm_build.build(graph, cpu)
    export(built.executable, path)
    return built.dot.name
