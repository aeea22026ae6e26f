# SPDX-License-Identifier: Apache-2.0
"""Where the time of a compiled model goes: every node as ONNX Runtime timed it, and its limit."""

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qcompile.artifact import Artifact, load
from qcompile.attention import ATTENTIONS
from qcompile.compare import check_bench, feed_for
from qcompile.errors import InputError
from qcompile.graph import attribute
from qcompile.numerics.softmax_formats import UNIFORM, SoftmaxFormat
from qcompile.profile_limits import Limits, measure_limits
from qcompile.session import run_float, session_options

SECONDS, MAX_RUNS = 1.0, 500  # ONNX Runtime keeps a million events at most
Typed = dict[str, list[int]]  # {"float": [1, 8]}
CONTROL_FLOW = {"If", "Loop", "Scan"}  # their time is that of the nodes inside
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """A node: median milliseconds of a run, share of all nodes' time (0 to 1).

    products: integer multiplications, 0 where there are none; weight_bytes and activation_bytes:
    read and written in a run; limit_ms: the least time that the limits allow, None without one;
    fraction: limit_ms ÷ ms.
    """

    name: str
    op: str
    shapes: tuple[str, ...]
    ms: float
    share: float
    products: int
    weight_bytes: int
    activation_bytes: int
    limit_ms: float | None
    fraction: float | None


@dataclass(frozen=True)
class Profile:
    """Nodes, slowest first, and the limits that they are held against."""

    nodes: tuple[NodeTime, ...]
    limits: Limits
    threads: int
    runs: int

    def by_op(self) -> list[dict[str, Any]]:
        """Sums over the nodes of each op type, slowest first."""
        rows: dict[str, dict[str, Any]] = {}
        for node in self.nodes:
            start = {"op": node.op, "nodes": 0, "ms": 0.0, "share": 0.0, "products": 0}
            row = rows.setdefault(node.op, start)
            row["nodes"] += 1
            for key in ("ms", "share", "products"):
                row[key] += getattr(node, key)
        return sorted(rows.values(), key=lambda row: -row["ms"])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "threads": self.threads,
            "runs": self.runs,
            "limits": self.limits.as_dict(),
            "nodes": [asdict(node) for node in self.nodes],
            "by_op": self.by_op(),
        }


def profile(
    folder: str | Path,
    threads: int = 1,
    data: Any = None,
    seconds: float | None = None,
    shapes: tuple[str, ...] = (),
    *,
    trust: bool = False,
) -> Profile:
    """Time per node of an artifact; InputError for a model file, and for a compiled network."""
    check_bench(threads, seconds, data, shapes)
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no artifact: --profile takes a folder that qcompile wrote")
    artifact = Artifact.read(folder)
    if artifact.content.get("network") is not None:
        target = artifact.content["target"]
        raise InputError(
            f"{folder} is one library of target {target}, without nodes to time: leave out "
            "--profile, or compile for cpu or ort"
        )
    model = artifact.model()
    feed = feed_for(model, data, shapes)
    with tempfile.TemporaryDirectory() as temporary:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(temporary) / "profile")
        session = load(folder, trust_library=trust, options=options)
        runs = _run(session, feed, SECONDS if seconds is None else seconds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    limits = measure_limits(threads)
    return Profile(_nodes(events, runs, model, limits), limits, threads, runs)


def _run(session: ort.InferenceSession, feed: Mapping[str, Any], seconds: float) -> int:
    """Run for so long, at least 5 times."""
    began, runs = time.perf_counter(), 0
    while runs < 5 or (time.perf_counter() - began < seconds and runs < MAX_RUNS):
        run_float(session, None, dict(feed))
        runs += 1
    return runs


def _nodes(
    events: list[dict[str, Any]], runs: int, model: ir.Model, limits: Limits
) -> tuple[NodeTime, ...]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith(SUFFIX):
            op = event["args"]["op_name"]
            if op not in CONTROL_FLOW:
                name = event["name"].removesuffix(SUFFIX)
                key = (name or f"#{event['args']['node_index']}", op)
                found.setdefault(key, []).append(event)
    known = {node.name or "": node for node in model.graph.all_nodes()}
    # A model whose weights do not fit in the cache reads them from memory in every run.
    weights = sum(int(rows[-1]["args"]["parameter_size"]) for rows in found.values())
    times = {key: _milliseconds(rows, runs) for key, rows in found.items()}
    total = sum(times.values())
    nodes = [
        _node(key, rows, (times[key], total, runs), known.get(key[0]), (limits, weights))
        for key, rows in found.items()
    ]
    return tuple(sorted(nodes, key=lambda node: -node.ms))


def _milliseconds(events: list[dict[str, Any]], runs: int) -> float:
    """Of one run, in which a node of a body may run several times."""
    durations = np.array([event["dur"] for event in events], np.float64) / 1000  # microseconds
    if len(durations) % runs:
        return float(durations.sum()) / runs
    return float(np.median(durations.reshape(runs, -1).sum(axis=1)))


def _node(
    key: tuple[str, str],
    events: list[dict[str, Any]],
    timed: tuple[float, float, int],
    node: ir.Node | None,
    held: tuple[Limits, int],
) -> NodeTime:
    (name, op), (ms, total, runs), (limits, all_weights) = key, timed, held
    each, times = events[-1]["args"], max(len(events) // runs, 1)
    count = times * products(node, op, each["input_type_shape"], each["output_type_shape"])
    weights = times * int(each["parameter_size"])
    activations = times * (int(each["activation_size"]) + int(each["output_size"]))
    from_memory = weights if all_weights > limits.cache_bytes else 0
    from_memory += activations if activations > limits.cache_bytes else 0
    seconds = from_memory / limits.bytes_per_second
    rate = limits.products_per_second(_bits(node)) if count else None
    if rate is not None:
        seconds = max(seconds, count / rate)
    limit = seconds * 1000 if seconds else None
    fraction = limit / ms if limit is not None and ms else None
    shapes = tuple(_texts(each["input_type_shape"])) + ("→", *_texts(each["output_type_shape"]))
    share = ms / total if total else 0.0
    is_rotating = op == "QMatMul" and node is not None and "hadamard" in node.attributes
    label = f"{op} + Hadamard" if is_rotating else op
    return NodeTime(name, label, shapes, ms, share, count, weights, activations, limit, fraction)


def products(node: ir.Node | None, op: str, inputs: list[Typed], outputs: list[Typed]) -> int:
    """Integer multiplications of a packed product or of attention; 0 for other ops."""
    if node is None or node.op_type != op or op not in ("QMatMul", "QConv", *ATTENTIONS):
        return 0
    if op == "QMatMul" and _text(node, "activation") == "f32":
        return 0  # w…a16 multiplies floats
    count = int(np.prod(_dims(outputs[0]), dtype=np.int64))
    if op not in ATTENTIONS:
        return count * node.attributes["K"].as_int()
    depth, keys, width = (
        dims[perm[-1] if (perm := attribute(node, f"{name}_perm", None)) else -1]
        for name, dims in zip("qky", map(_dims, [*inputs[:2], outputs[0]]), strict=True)
    )
    planes = 1 + SoftmaxFormat.parse(_text(node, "softmax_format") or UNIFORM).is_wide
    return count // width * keys * (depth + planes * width) if width else 0


def _dims(value: Typed) -> list[int]:
    (shape,) = value.values()
    return shape


def _bits(node: ir.Node | None) -> int:
    return int(attribute(node, "bits", 8)) if node is not None else 8


def _text(node: ir.Node, name: str) -> str:
    found = node.attributes.get(name)
    return found.as_string() if found is not None else ""


def _texts(values: Iterable[Typed]) -> list[str]:
    """As float[1x8]."""
    return [f"{t}[{'x'.join(map(str, s))}]" for value in values for t, s in value.items()]
