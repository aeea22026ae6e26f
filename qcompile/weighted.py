# SPDX-License-Identifier: Apache-2.0
"""The weighted nodes of a graph: which count, and which lie at its edges."""

import math

import numpy as np
import onnx_ir as ir

from qcompile.bodies import HOLDERS, Body
from qcompile.graph import attribute, constant, input_of, is_constant, is_op, rank, static_shape
from qcompile.plan import RECURRENT_OPS, WEIGHTED_OPS, NodePlan
from qcompile.products import weight_of

# Ops that hold a weight and have no kernel; most of them normalise has turned into those that have.
FLOAT_OPS = {
    "ConvTranspose": "it is a ConvTranspose that is no convolution of pixels (docs/normalise.md)",
    "Einsum": "its equation is no product of matrices",
}


def is_weighted(node: ir.Node) -> bool:
    """Whether a constant weight of the node counts, be it quantized or not."""
    if not is_op(node, *WEIGHTED_OPS, *RECURRENT_OPS, *FLOAT_OPS):
        return False
    weight = weight_of(node)
    if weight is None:
        return is_op(node, "Conv") or left_weight(node) is not None
    floats = weight.dtype is not None and weight.dtype.is_floating_point()
    if is_op(node, "Gather"):
        return floats and rank(weight) == 2 and attribute(node, "axis", 0) in (0, -2)
    return floats


def left_weight(node: ir.Node) -> ir.Value | None:
    """The constant of a product W · x, which has no kernel but counts for coverage."""
    left = node.inputs[0]
    if left is None or not is_op(node, "MatMul", "Gemm", "Einsum") or not is_constant(left):
        return None
    is_float = left.dtype is not None and left.dtype.is_floating_point()
    return left if is_float and len(left.shape or ()) > 1 else None


def edge_nodes(graph: ir.Graph, weighted: list[ir.Node]) -> set[ir.Node]:
    """The first and last weighted node of every path from an input to an output."""
    chosen, edges = set(weighted), set()
    above: dict[ir.Node, bool] = {}
    for node in graph:
        seen = any(above[p] or p in chosen for p in node.predecessors() if p in above)
        above[node] = seen
        if node in chosen and not seen:
            edges.add(node)
    below: dict[ir.Node, bool] = {}
    for node in reversed(list(graph)):
        seen = any(below[s] or s in chosen for s in node.successors() if s in below)
        below[node] = seen
        if node in chosen and not seen:
            edges.add(node)
    return edges


def inside_other_graphs(graph: ir.Graph) -> dict[str, NodePlan]:
    """Weighted nodes of graphs that are no bodies of If, Loop or Scan: they stay float."""
    found: dict[str, NodePlan] = {}
    for holder in (n for n in graph if not is_op(n, *HOLDERS)):
        held = [a.value for a in holder.attributes.values() if a.type == ir.AttributeType.GRAPH]
        for node in (n for inner in held for n in inner.all_nodes() if is_weighted(n)):
            weight = weight_of(node) or left_weight(node)
            name = f"{holder.name}/{node.name}"
            found[name] = NodePlan(
                name,
                node.op_type,
                weight.name or "" if weight is not None else "",
                held_elements(node),
                reason=f"it is inside {holder.op_type} {holder.name}, whose graph stays float",
            )
    return found


def carried_weights(body: Body) -> dict[str, NodePlan]:
    """Products of a body by a matrix that starts as a constant and that the steps change."""
    found: dict[str, NodePlan] = {}
    offset = 2 if is_op(body.holder, "Loop") else 0
    for inner, outer in zip(body.graph.inputs[offset:], body.holder.inputs[offset:], strict=False):
        if not is_constant(outer) or rank(outer) != 2:
            continue
        for use in inner.uses():
            if is_op(use.node, "MatMul", "Gemm") and use.idx == 1:
                name, size = use.node.name or "", num_elements(outer)
                reason = f"its weight is carried by {body.holder.op_type} {body.holder.name}"
                plan = NodePlan(name, use.node.op_type, inner.name or "", size, reason=reason)
                found[name] = plan
    return found


def held_elements(node: ir.Node) -> int:
    """Elements of the node's weight; a recurrent node has a second one."""
    second = input_of(node, 2) if is_op(node, *RECURRENT_OPS) else None
    return num_elements(weight_of(node) or left_weight(node)) + num_elements(second)


def num_elements(weight: ir.Value | None) -> int:
    """Elements of the weight; 0 where its shape is not known."""
    shape = static_shape(weight) if weight is not None else None
    return 0 if shape is None else math.prod(shape)


def not_finite(node: ir.Node) -> str:
    """The message about a weight that holds NaN or infinity, or nothing."""
    for weight in (weight_of(node), input_of(node, 2) if is_op(node, "LSTM") else None):
        array = constant(weight)
        # NaN and infinity show in the extremes, which need no copy of the array
        if weight is None or array is None or np.isfinite([array.min(), array.max()]).all():
            continue
        return (
            f'{node.op_type} "{node.name}": its weight {weight.name} holds NaN or infinity: '
            "repair the model, or leave the node out with --nodes-to-exclude"
        )
    return ""
