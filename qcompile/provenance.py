# SPDX-License-Identifier: Apache-2.0
"""What nodes and values of an artifact stand for: kept in the manifest, not in model.onnx.

ONNX Runtime needs none of it, and a small model would be as large as its weights with it.
"""

from collections.abc import Iterable

import onnx_ir as ir

from qcompile.bodies import nodes_of
from qcompile.graph import DOMAIN

PREFIX = "qcompile."
Facts = dict[str, dict[str, dict[str, str]]]  # "nodes" or "values" → name → metadata


def detach(model: ir.Model) -> Facts:
    """Take the metadata of qcompile off the graphs, where the op library runs it.

    With it go types and shapes, which ONNX Runtime infers. Without the library all stays: the
    quantizers of a QDQ graph say what their numbers are in their metadata alone.
    """
    nodes = nodes_of(model)
    if not any(n.domain == DOMAIN for n in nodes):
        return {}
    values = [v for n in nodes for v in n.outputs if not v.is_graph_output()]
    facts = {"nodes": _taken(nodes), "values": _taken(values)}
    for value in values:
        if not value.metadata_props:
            value.type = value.shape = None
    return facts


def _taken(objects: Iterable[ir.Node | ir.Value]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for each in objects:
        held = {k: v for k, v in each.metadata_props.items() if k.startswith(PREFIX)}
        for key in held:
            del each.metadata_props[key]
        if held:
            found[each.name or ""] = held
    return found


def attach(model: ir.Model, facts: Facts) -> None:
    """Put back what `detach` took."""
    nodes, values = facts.get("nodes", {}), facts.get("values", {})
    for node in nodes_of(model):
        node.metadata_props.update(nodes.get(node.name or "", {}))
        for value in node.outputs:
            value.metadata_props.update(values.get(value.name or "", {}))
