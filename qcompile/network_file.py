# SPDX-License-Identifier: Apache-2.0
"""An integer graph in one .npz file: what the emulator of target t4 reads beside the library."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError
from qcompile.integer_graph import (
    Add,
    CodeMap,
    Conv,
    Excerpt,
    GlobalAveragePool,
    IntegerGraph,
    Lookup,
    MaxPool,
    Node,
    Residual,
)
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import DyadicPair
from qcompile.numerics.requantize import Dyadic

KINDS = {k.__name__: k for k in (Conv, Add, MaxPool, GlobalAveragePool, Lookup, Excerpt)}
ARRAYS = ("weight", "bias", "multiplier", "exponent")
DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile)
GRAPH = "graph"  # the name of the structure, JSON in bytes


def save(graph: IntegerGraph, path: Path) -> None:
    """Weights, biases and multipliers as arrays, all else as JSON."""
    arrays: dict[str, NDArray] = {}
    nodes = []
    for i, node in enumerate(graph.nodes):
        row: dict[str, Any] = {"kind": type(node).__name__}
        if isinstance(node, Conv):
            arrays[f"{i}_weight"], arrays[f"{i}_bias"] = node.weight, node.bias
        if isinstance(node, Conv | GlobalAveragePool):
            arrays[f"{i}_multiplier"] = node.scale.multiplier
            arrays[f"{i}_exponent"] = node.scale.exponent
        if isinstance(node, Lookup):
            arrays[f"{i}_table"] = node.table
        kept = {k: v for k, v in vars(node).items() if k not in ("weight", "bias", "table")}
        if not isinstance(node, Add):
            kept.pop("scale", None)
        row |= {k: asdict(v) if hasattr(v, "__dataclass_fields__") else v for k, v in kept.items()}
        nodes.append(row)
    text = json.dumps({"input": asdict(graph.input), "batch": graph.batch, "nodes": nodes})
    np.savez(path, **{GRAPH: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> IntegerGraph:
    """The graph of a file that `save` wrote; InputError where it is none."""
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        data = json.loads(arrays[GRAPH].tobytes())
        nodes = tuple(_node(row, i, arrays) for i, row in enumerate(data["nodes"]))
        return IntegerGraph(_map(data["input"]), nodes, int(data["batch"]))
    except DAMAGED as error:
        raise InputError(
            f"{path} is no integer graph: {type(error).__name__}: {error}: compile the model again"
        ) from None


def _node(row: dict[str, Any], index: int, arrays: dict[str, NDArray]) -> Node:
    kind = KINDS[row.pop("kind")]
    for key in ("x", "y", "a", "b"):
        if key in row:
            row[key] = _map(row[key])
    for key in ("clip", "start", "step", "before", "count"):
        if row.get(key) is not None:
            row[key] = tuple(int(v) for v in row[key])
    if "window" in row:
        row["window"] = _window(row["window"])
    if row.get("residual") is not None:
        held = row["residual"]
        clip = None if held["own_clip"] is None else tuple(held["own_clip"])
        maps = _map(held["own"]), _map(held["other"])
        row["residual"] = Residual(*maps, DyadicPair(**held["scale"]), clip)
    if kind is Add:
        row["scale"] = DyadicPair(**row["scale"])
    if kind in (Conv, GlobalAveragePool):
        numbers = (arrays[f"{index}_{name}"].astype(np.int32) for name in ARRAYS[2:])
        row["scale"] = Dyadic(*numbers)
    if kind is Lookup:
        row["table"] = arrays[f"{index}_table"].astype(np.uint8)
    if kind is Conv:
        row["weight"] = arrays[f"{index}_weight"].astype(np.int8)
        row["bias"] = arrays[f"{index}_bias"].astype(np.int32)
    return kind(**row)


def _map(row: dict[str, Any]) -> CodeMap:
    height, width, channels = (int(size) for size in row["shape"])
    return CodeMap(**{**row, "shape": (height, width, channels)})


def _window(row: dict[str, Any]) -> Window:
    pairs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return Window(**pairs)
