# SPDX-License-Identifier: Apache-2.0
"""verify, for libraries: a network gives the integers of numerics and of target cpu, all equal.

A library for the CPU is run as it is delivered, by its own run.py in a process of its own. Kernels
for a GPU run on the emulator, each by itself, on the tensors that numerics gives it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.artifact import Artifact, sha256
from qcompile.data import Data
from qcompile.errors import VerificationError
from qcompile.graph import is_op
from qcompile.integer_graph import Conv, IntegerGraph
from qcompile.network import Network
from qcompile.targets.target import Compiler
from qcompile.targets.tvm import run
from qcompile.targets.tvm.toolchain import has_gpu
from qcompile.verdict import Check
from qcompile.verify_nodes import probe

SAMPLES = 2  # numerics runs every layer in NumPy
CPU_SAMPLES = 64  # of target cpu's artifact
Emulate = Callable[[IntegerGraph, str | None], Any]
EQUAL = "integers that differ"
MOST_EMULATED = 1 << 29  # products; the emulator does some 20 million in a second
LEAST_BLOCKS = 2  # of a kernel that does not run whole: the first, the last, and one between
PRODUCTS = ("mma.sync", "dp4a")


def check_network(
    artifact: Artifact, reference: Artifact, network: Network, compiler: Compiler, data: Data
) -> list[Check]:
    """All rungs of a network: files, integers against numerics and target cpu, or the emulator."""
    facts, name = artifact.content["network"], network.input.name
    feeds = [feed[name] for feed in data.first(CPU_SAMPLES)]
    x = np.concatenate(feeds)
    expected, is_raw = _results_of(reference, name, feeds)
    few = network.graph.batch if compiler.device == "cuda" else min(SAMPLES, len(x))
    chosen = np.resize(np.arange(len(x)), few)  # a batch may be larger than the data
    values = network.graph.run(run.quantize(x[chosen], facts["input"]))
    last = run.finish(values[network.graph.output.name], facts["output"], is_raw)
    checks = [
        check_files(artifact),
        _equal("network: numerics", last, expected[chosen], "target cpu against numerics"),
    ]
    if can_run(compiler):
        found = run_alone(artifact.folder, x, is_raw=is_raw)
        checks.append(_equal("network: library", found, expected, "run.py against target cpu"))
    if compiler.emulate is not None:
        checks.append(check_instructions(network, facts))
        checks.append(check_emulated(artifact, network, compiler.emulate, values))
    return checks


def can_run(compiler: Compiler) -> bool:
    """Whether this machine has what the library is for."""
    return compiler.device == "cpu" or has_gpu()


def check_files(artifact: Artifact) -> Check:
    """emit: the files' bytes are those of the manifest."""
    files = artifact.content["files"]
    wrong = [n for n, facts in files.items() if sha256(artifact.folder / n) != facts["sha256"]]
    source = "files that differ from the manifest's sha256"
    return Check("network: files", len(wrong), 0, source, ", ".join(wrong), len(files))


def check_instructions(network: Network, facts: dict[str, Any]) -> Check:
    """Every product is an instruction of tensor cores or dp4a, as its PTX says."""
    rows = {row["node"]: row["instruction"] for row in facts["kernels"]}
    wrong = [
        node.y.name
        for node in network.graph.nodes
        if isinstance(node, Conv) and not rows[node.y.name].startswith(PRODUCTS)
    ]
    source = "products whose PTX has neither mma.sync nor dp4a"
    return Check("network: PTX", len(wrong), 0, source, ", ".join(wrong), len(rows))


def check_emulated(
    artifact: Artifact, network: Network, emulate: Emulate, values: dict[str, NDArray]
) -> Check:
    """The CUDA source of the artifact, lane by lane: every kernel, on the tensors of numerics.

    Of a large network some blocks of each (`share_emulated`).
    """
    source = (artifact.folder / artifact.content["network"]["library"]).with_suffix(".cu")
    plan = emulate(network.graph, source.read_text(encoding="utf-8"))
    wrong, where, count = 0, "", 0
    for kernel in plan.each(values, share_emulated(network.graph), LEAST_BLOCKS):
        count += 1
        if kernel.num_wrong and not wrong:
            where = kernel.name
        wrong += kernel.num_wrong
    return Check("network: emulated kernels", wrong, 0, f"{EQUAL} from numerics", where, count)


def share_emulated(graph: IntegerGraph) -> float:
    """The share of each kernel's blocks that the emulator runs, 1 for a network that is not large.

    Blocks of a kernel have the same loops and barriers, and differ in their place: the first one
    and the last meet the borders of the map.
    """
    products = sum(node.num_products for node in graph.nodes if isinstance(node, Conv))
    return min(1.0, MOST_EMULATED / max(1, products * graph.batch))


def _equal(rung: str, found: NDArray, expected: NDArray, source: str) -> Check:
    """As many integers, and none differs."""
    same = found.shape == expected.shape
    wrong = int((found != expected).sum()) if same else max(found.size, expected.size)
    return Check(rung, wrong, 0, f"{EQUAL}: {source}", "", expected.size)


def _results_of(reference: Artifact, name: str, feeds: list[NDArray]) -> tuple[NDArray, bool]:
    """What target cpu's artifact gives: its integers, or floats where they move behind them."""
    packed = reference.model()
    node = packed.graph.outputs[0].producer()
    is_raw = is_op(node, "DequantizeLinear")
    value = node.inputs[0] if node is not None and is_raw else packed.graph.outputs[0]
    assert value is not None
    session = probe(reference, packed, [value.name or ""])
    return np.concatenate([session.run(None, {name: x})[0] for x in feeds]), is_raw


def run_alone(folder: Path, x: NDArray[np.float32], *, is_raw: bool) -> NDArray:
    """Integers or floats of an artifact by its own run.py; VerificationError where it fails."""
    with tempfile.TemporaryDirectory(prefix="qcompile-run-") as place:
        paths = [str(Path(place, name)) for name in ("x.npy", "y.npy")]
        np.save(paths[0], x)
        flags = ["--raw"] if is_raw else []
        command = [sys.executable, "-I", str(folder / "run.py"), *flags, *paths]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise VerificationError(f"the library does not run: {done.returncode}\n{tail}")
        return np.load(paths[1], allow_pickle=False)
