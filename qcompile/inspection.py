# SPDX-License-Identifier: Apache-2.0
"""inspect: what an artifact or a model file is made of, in bytes, and what runs it here."""

from pathlib import Path
from typing import Any

import onnx_ir as ir

import qcompile.runtime_ops as runtime_ops
from qcompile.artifact import LIBRARY, MANIFEST, MODEL, WEIGHTS, Artifact
from qcompile.bodies import nodes_of
from qcompile.graph import DOMAIN
from qcompile.load import external_tensors

RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


def artifact_facts(artifact: Artifact) -> dict[str, Any]:
    """bytes: of the model, its weights, library and manifest apart. isa: what this machine runs.

    recurrent: weights of recurrent ops, which coverage does not count.
    """
    files = artifact.content["files"]
    library = artifact.content["library"]
    nodes = nodes_of(artifact.model())
    network = artifact.content.get("network")
    parts = (MODEL, WEIGHTS, LIBRARY, *(network["runtime"] if network is not None else ()))
    sizes = {name: int(files[name]["bytes"]) for name in parts if name in files}
    if library is not None:
        sizes["library"] = int(files[library["file"]]["bytes"])
    sizes["manifest"] = (artifact.folder / MANIFEST).stat().st_size
    return {
        "bytes": sizes,
        "bits_per_weight": bits_per_weight(artifact),
        "isa": runtime_ops.supported_isas()[-1] if library is not None else None,
        "ops": _ops(nodes),
        "recurrent": recurrent(nodes),
    }


def model_facts(path: Path) -> dict[str, Any]:
    """The same of an .onnx file: no library, no manifest."""
    model = ir.load(path)
    external = sum(t.nbytes for _, t in external_tensors(model))
    sizes = {"model": path.stat().st_size} | ({"external data": external} if external else {})
    return {"bytes": sizes, "ops": _ops(nodes_of(model)), "recurrent": recurrent(nodes_of(model))}


def bits_per_weight(artifact: Artifact) -> float | None:
    """Bits of the packed tensors, with the scales and the padding in them, for each weight."""
    rows = {r["weight_tensor"]: r for r in artifact.content["nodes"] if r.get("packed_bytes")}
    elements = sum(r["elements"] for r in rows.values())
    return 8 * sum(r["packed_bytes"] for r in rows.values()) / elements if elements else None


def recurrent(nodes: list[ir.Node]) -> list[dict[str, Any]]:
    """Node, op, weight elements and bytes of every recurrent op."""
    rows = []
    for node in nodes:
        if node.op_type in RECURRENT:
            held = [v.const_value for v in node.inputs[1:3] if v is not None]
            weights = [t for t in held if t is not None]
            rows.append(
                {
                    "node": node.name,
                    "op": node.op_type,
                    "elements": sum(t.size for t in weights),
                    "bytes": sum(t.nbytes for t in weights),
                }
            )
    return rows


def _ops(nodes: list[ir.Node]) -> dict[str, int]:
    """How many nodes of every op, qcompile's with their domain."""
    counts: dict[str, int] = {}
    for node in nodes:
        name = f"{DOMAIN}::{node.op_type}" if node.domain == DOMAIN else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
