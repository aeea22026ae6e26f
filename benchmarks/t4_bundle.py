# SPDX-License-Identifier: Apache-2.0
"""A folder to carry to a machine with a GPU: an artifact of target t4, references, one script.

    python -m benchmarks.t4_bundle ARTIFACT BUNDLE

There `python BUNDLE/gpu_check.py` runs every kernel and the whole network, compares all integers
with those of numerics, and times them (gpu_check.py). The inputs are random and reach
both ends of the input's range.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import gpu_check
from qcompile.artifact import Artifact
from qcompile.integer_graph import CodeMap, Conv, IntegerGraph
from qcompile.network_file import load
from qcompile.network_session import GRAPH
from qcompile.targets.tvm import cuda_plan, run, words
from qcompile.targets.tvm.cuda_build import launch_of, ptx_of
from qcompile.targets.tvm.cuda_emulator import KERNEL, PARAMETER
from qcompile.targets.tvm.emulated import held
from qcompile.targets.tvm.plan import Step, code_kind


def write_bundle(artifact: Path, bundle: Path, seed: int = 0) -> Path:
    """The folder, which must be new."""
    facts = Artifact.read(artifact).content["network"]
    graph = load(artifact / GRAPH)
    bundle.mkdir(parents=True)
    shutil.copytree(artifact, bundle / "artifact")
    shutil.copy(gpu_check.__file__, bundle / "gpu_check.py")
    source = (artifact / facts["library"]).with_suffix(".cu").read_text(encoding="utf-8")
    (bundle / "kernels.ptx").write_text(ptx_of(source), encoding="ascii")
    x = _floats(facts["input"], graph.batch, seed)
    values = graph.run(run.quantize(x, facts["input"]))
    np.save(bundle / "input.npy", x)
    last = run.finish(values[graph.output.name], facts["output"], raw=True)
    np.save(bundle / "expected.npy", last)
    steps, arrays = _steps(graph, source)
    np.savez(bundle / "arrays.npz", **_maps(graph, values), **arrays)  # type: ignore[arg-type]
    text = {"output": steps[-1]["output"], "steps": steps}
    (bundle / "kernels.json").write_text(json.dumps(text, indent=1), encoding="utf-8")
    return bundle


def _floats(border: dict[str, Any], batch: int, seed: int) -> NDArray[np.float32]:
    """Floats evenly over a range a tenth wider than that of the codes, [batch, dims]."""
    low, high = (border["scale"] * (limit - border["zero_point"]) for limit in border["limits"])
    wide = 0.05 * (high - low)
    rng = np.random.default_rng(seed)
    shape = (batch, *border["dims"])
    return rng.uniform(low - wide, high + wide, shape).astype(np.float32)


def _maps(graph: IntegerGraph, values: dict[str, NDArray]) -> dict[str, NDArray]:
    """Every map as the device holds it, with a mask of the bits that mean something."""
    found: dict[str, NDArray] = {}
    for x in (graph.input, *(node.y for node in graph.nodes)):
        found[x.name] = held(values[x.name], x)
        if x.bits != 32:
            ones = np.full(values[x.name].shape, -1)
            found[f"mask of {x.name}"] = words.pack(ones, x.bits)
    for x in (graph.input, graph.output):
        found.setdefault(f"{x.name}_codes", values[x.name].astype(code_kind(x)))
    return found


def _steps(graph: IntegerGraph, source: str) -> tuple[list[dict[str, Any]], dict[str, NDArray]]:
    """The kernels in order, parameters as the source has them, and their constants."""
    names = {m[2]: PARAMETER.findall(m[3]) for m in KERNEL.finditer(source)}
    steps, constants = [], {}
    for step in cuda_plan.plan(graph).steps:
        kernel, launch = f"{step.name}_kernel", launch_of(step.function)
        arguments = {"y": step.output}
        for name, value in step.arguments:
            arguments[name] = value if isinstance(value, str) else f"{step.name} {name}"
            if not isinstance(value, str):
                constants[arguments[name]] = value
        row = {
            "kernel": kernel,
            "grid": launch.grid,
            "threads": launch.threads,
            "parameters": [arguments[n.removesuffix("_ptr")] for _, n in names[kernel]],
            "output": step.output,
            "shape": step.shape,
            "kind": step.kind,
            "work": _work(step, graph.batch),
        }
        steps.append(row)
    return steps, constants


def _work(step: Step, batch: int) -> dict[str, Any]:
    """Operations, and the sizes of a convolution for its peers."""
    node = step.node
    if not isinstance(node, Conv):
        return {"operations": 0}
    N, kh, kw, C = node.weight.shape
    size = {
        "M": batch * node.y.shape[0] * node.y.shape[1],
        "N": N,
        "K": kh * kw * C,
        "x": _nchw(node.x, batch),
        "weight": [N, C, kh, kw],
        "strides": node.window.strides,
        "pads": node.window.pads[:2],
    }
    bits = max(node.weight_bits, node.x.bits)
    return {"operations": 2 * node.num_products * batch, "bits": bits, "conv": size}


def _nchw(x: CodeMap, batch: int) -> list[int]:
    return [batch, x.shape[2], x.shape[0], x.shape[1]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    print(write_bundle(arguments.artifact, arguments.bundle))


if __name__ == "__main__":
    main()
