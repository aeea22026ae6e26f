# SPDX-License-Identifier: Apache-2.0
"""The weighted nodes of a graph: which count, and which lie at its edges."""

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qcompile.bodies import HOLDERS, Body
from qcompile.formats import scale_format
from qcompile.graph import (
    ROTATION,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    only_consumer,
    rank,
    static_shape,
)
from qcompile.plan import RECURRENT_OPS, WEIGHTED_OPS, NodePlan
from qcompile.products import weight_of
from qcompile.spec import QuantSpec

# Ops that hold a weight and have no kernel; most of them normalise has turned into those that have.
FLOAT_OPS = {
    "ConvTranspose": "it is a ConvTranspose that is no convolution of pixels (docs/normalise.md)",
    "Einsum": "its equation is no product of matrices",
}


def is_weighted(node: ir.Node) -> bool:
    """Whether a constant weight of the node counts, be it quantized or not."""
    if (
        not is_op(node, *WEIGHTED_OPS, *RECURRENT_OPS, *FLOAT_OPS)
        or ROTATION in node.metadata_props
    ):
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


# Products of float32 weights with activations up to 2^32 stay finite in sums of 2^30.
LARGEST_WEIGHT = 2.0**64


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


def not_codable(node: ir.Node, form: str) -> str:
    """The message about a weight that no codes can stand for, or nothing.

    form: of the scales; a scale is at most the largest weight.
    """
    kind = scale_format(form)
    largest = LARGEST_WEIGHT if kind.name == "ue4m3" else min(LARGEST_WEIGHT, kind.ends[1])
    for weight in (weight_of(node), input_of(node, 2) if is_op(node, "LSTM") else None):
        array = constant(weight)
        if weight is None or array is None:
            continue
        ends = np.array([array.min(), array.max()])  # NaN shows there, without a copy of the array
        if np.isfinite(ends).all() and np.abs(ends).max() <= largest:
            continue
        held = (
            f"{np.abs(ends).max():.3g}; with {form} scales at most {largest:.3g} has codes"
            if np.isfinite(ends).all()
            else "NaN or infinity"
        )
        return (
            f'{node.op_type} "{node.name}": its weight {weight.name} holds {held}: '
            "repair the model, or leave the node out with --nodes-to-exclude"
        )
    return ""


def nothing_to_quantize(nodes: dict[str, NodePlan]) -> str:
    """The message when no node of the model can be quantized."""
    if not nodes:
        return (
            "nothing to quantize: the model has no Conv, MatMul or Gemm with a constant weight "
            "(qcompile quantizes weights that are stored in the file)"
        )
    lines = [f"  {p.op_type} {p.node}: {p.reason}" for p in list(nodes.values())[:8]]
    more = f"\n  and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return "nothing to quantize: every weighted node stays in float\n" + "\n".join(lines) + more


def channel_spec(
    node: ir.Node, activation: QuantSpec | None
) -> tuple[QuantSpec | None, str | None]:
    """The node's static activations with a scale a channel, or why they cannot have one."""
    if activation is None or activation.is_dynamic:
        return activation, (
            "activation_granularity axis is about static activations: use preset w8a8 here"
        )
    value = node.inputs[0]
    if value is None or only_consumer(value) is not node:
        return activation, (
            "its input has other readers, which take one scale: leave out activation_granularity"
        )
    return replace(activation, granularity="axis", axis=1), None
