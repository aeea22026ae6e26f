# SPDX-License-Identifier: Apache-2.0
"""deliver: the library of a network, what runs it, and its manifest, in one folder."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from qcompile import network_file
from qcompile.artifact import LIBRARY, Artifact, sha256
from qcompile.network import Border, Network
from qcompile.network_session import GRAPH
from qcompile.targets.target import Built, Target
from qcompile.targets.tvm import run
from qcompile.targets.tvm.plan import code_kind

SOURCES = {"run.py": "run.py", "run_cc.inc": "run.cc"}  # in the package, in the artifact


def deliver(reference: Artifact, network: Network, target: Target, folder: Path) -> Artifact:
    """Writes the artifact of a library into a folder; the reference is target cpu's of the model.

    Only NumPy, or a C++ compiler, is needed to run it: TVM's runtime comes along.
    """
    assert target.compiler is not None
    built = target.compiler.build(network.graph, folder / LIBRARY)
    (folder / LIBRARY).with_suffix(".ptx").unlink(missing_ok=True)  # the library holds it
    for path in built.runtime:
        shutil.copyfile(path, folder / path.name)
    for source, name in SOURCES.items():
        shutil.copyfile(Path(run.__file__).with_name(source), folder / name)
    if target.compiler.device == "cuda":  # what the emulator reads
        network_file.save(network.graph, folder / GRAPH)
    facts = facts_of(network, built, target.compiler.device)
    (folder / "network.h").write_text(header(facts), encoding="utf-8")
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)}
        for p in sorted(folder.iterdir())
        if p.is_file()
    }
    kernels = {name: row for row in facts["kernels"] for name in row["computes"]}
    rows = [
        {k: v for k, v in row.items() if k != "packed_bytes"}  # of another layout
        | {"kernel": kernels[row["node"]]["instruction"], "layout": None}
        for row in reference.content["nodes"]
    ]
    content = reference.content | {"onnx": None, "library": None, "network": facts}
    content |= {"files": files, "nodes": rows, "provenance": {}}
    artifact = Artifact(folder, content, {})
    artifact.write_manifest()
    return artifact


def facts_of(network: Network, built: Built, device: str) -> dict[str, Any]:
    """What the manifest says of a network: run.py reads it, and the C++ runner has it as header."""
    graph = network.graph
    kernels = [
        row | {"computes": list(network.sources.get(row["node"], ()))} for row in built.kernels
    ]
    return {
        "library": LIBRARY,
        "device": device,
        "batch": graph.batch,
        "runtime": [path.name for path in built.runtime],
        "instructions": list(built.instructions),
        "minimum_driver": built.minimum_driver,
        "input": _border(network.input, graph.input.shape, code_kind(graph.input)),
        "output": _border(network.output, graph.output.shape, code_kind(graph.output)),
        "kernels": kernels,
    }


def _border(border: Border, shape: tuple[int, int, int], kind: str) -> dict[str, Any]:
    return {
        "name": border.name,
        "dims": list(border.dims),
        "order": list(border.order),
        "map": list(shape),
        "kind": kind,
        "scale": border.scale,
        "zero_point": border.zero_point,
        "limits": list(border.limits),
    }


def header(facts: dict[str, Any]) -> str:
    """network.h of run.cc: the numbers of one network."""
    runtime = ", ".join(f'"{name}"' for name in facts["runtime"])
    needs = ""
    if facts["minimum_driver"] is not None:
        needs = f" (a GPU and a driver of {facts['minimum_driver']} or later are needed)"
    kinds = {"uint8": "uint8_t", "int8": "int8_t", "int32": "int32_t"}
    lines = [
        "// Made by qcompile: the numbers of one network, for run.cc.",
        "#pragma once",
        "#include <cstddef>",
        "#include <cstdint>",
        "namespace network {",
        f"constexpr const char* kRuntime[] = {{{runtime}}};",
        f'constexpr const char* kLibrary = "{facts["library"]}";',
        f'constexpr const char* kNeeds = "{needs}";',
        f'constexpr const char* kInstructions = "{" ".join(facts["instructions"])}";',
        f"constexpr int kDevice = {run.DEVICES[facts['device']]};",
        f"constexpr int64_t kBatch = {facts['batch']};",
        f"using OutputCode = {kinds[facts['output']['kind']]};",
    ]
    for name, border in (("Input", facts["input"]), ("Output", facts["output"])):
        strides = _strides(border["order"], border["map"])
        lines += [
            f"constexpr int64_t k{name}Map[3] = {{{', '.join(map(str, border['map']))}}};",
            f"constexpr int64_t k{name}Stride[3] = {{{', '.join(map(str, strides))}}};",
            f"constexpr size_t k{name}Size = {math.prod(border['map'])};",
            f"constexpr float k{name}Scale = {float(np.float32(border['scale'])).hex()}f;",
            f"constexpr int32_t k{name}ZeroPoint = {border['zero_point']};",
        ]
    low, high = facts["input"]["limits"]
    lines += [f"constexpr int kInputMin = {low}, kInputMax = {high};", "}  // namespace network"]
    return "\n".join(lines) + "\n"


def _strides(order: list[int], shape: list[int]) -> list[int]:
    """How far apart neighbours on each axis of the map lie in the model's order.

    >>> _strides([2, 0, 1], [32, 32, 3])
    [32, 1, 1024]
    """
    strides, step = [0, 0, 0], 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return strides
