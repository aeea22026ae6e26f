# SPDX-License-Identifier: Apache-2.0
"""Move a Transpose past ops that do not care, and remove it where it meets its inverse.

Before:
    { t = Transpose <perm = [0, 3, 1, 2]> (x)   r = Relu (t)
      u = Transpose <perm = [0, 2, 3, 1]> (r)   y = com.qcompile.QConv (u) }
After:
    { r_nhwc = Relu (x)   y = com.qcompile.QConv (r_nhwc) }
Refuses: inputs with different transposes; Slice and Pad whose axes are not constant.

Quantized regions stay NHWC from their first op to their last; a transpose remains where floats in
NCHW enter or leave.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    DOMAIN,
    LAYOUT,
    NHWC,
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    remove_dead,
    replace,
)
from qcompile.passes.lower.lowered import TO_NCHW, permuted, transpose

_UNARY = (
    "Relu",
    "Clip",
    "Sigmoid",
    "QuantizeLinear",
    "DequantizeLinear",
    "Identity",
    "Neg",
    "Abs",
    "Sqrt",
)
_BINARY = ("Add", "Mul", "Sub", "Div")
_AXES = ("Slice", "Pad")

Perm = tuple[int, ...]


class MoveTransposePastOp(ir.passes.InPlacePass):
    """To a fixed point; each step moves one transpose down or removes two."""

    stage = "lower"
    name = "move_transpose_past_op"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Until nothing moves; the bound is the number of nodes squared."""
        graph, modified = model.graph, False
        for _ in range(graph.num_nodes()):
            changed = False
            for node in list(graph):
                if node.graph is graph:
                    changed |= _cancel(graph, node) or _move(graph, node)
            modified |= changed
            if not changed:
                break
        return ir.passes.PassResult(model, modified)


def perm_of(value: ir.Value | None) -> tuple[ir.Value, Perm] | None:
    """The source and permutation of a transposed activation."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "Transpose") or node.inputs[0] is None:
        return None
    if is_constant(node.inputs[0]) or "perm" not in node.attributes:
        return None
    return node.inputs[0], tuple(node.attributes["perm"].value)


def _cancel(graph: ir.Graph, node: ir.Node) -> bool:
    """A Transpose of its inverse is the source."""
    outer = perm_of(node.outputs[0]) if is_op(node, "Transpose") else None
    inner = perm_of(node.inputs[0]) if outer is not None else None
    if outer is None or inner is None or node.outputs[0].is_graph_output():
        return False
    if [inner[1][i] for i in outer[1]] != list(range(len(outer[1]))):
        return False
    before = outer[0].producer()
    node.outputs[0].replace_all_uses_with(inner[0])
    remove_dead(graph, [before, node] if before is not None else [node])
    return True


def _move(graph: ir.Graph, node: ir.Node) -> bool:
    """Apply the op to the sources, and transpose its output instead."""
    found = _sources(node)
    if found is None:
        return False
    sources, perm = found
    if is_op(node, *_AXES) and not _can_move_axes(node):
        return False
    producers = [v.producer() for v in node.inputs if v is not None and perm_of(v) is not None]
    if is_op(node, *_AXES):
        _move_axes(graph, node, perm)
    for index, source in sources.items():
        node.replace_input_with(index, source)
    out = node.outputs[0]
    inverse = tuple(int(i) for i in np.argsort(perm))
    after = transpose(out, perm, f"{out.name}_nchw")  # takes the name where it is a graph output
    after.outputs[0].shape, out.shape = out.shape, permuted(out.shape, inverse)
    graph.insert_after(node, after)
    name = out.name
    replace(out, after.outputs[0])
    after.replace_input_with(0, out)
    out.name, after.outputs[0].name = f"{name}_nhwc", name
    out.metadata_props[LAYOUT] = NHWC
    remove_dead(graph, [p for p in producers if p is not None])
    return True


def _sources(node: ir.Node) -> tuple[dict[int, ir.Value], Perm] | None:
    """Input index → source, and the permutation that all data inputs (but scalars) share."""
    if is_op(node, *_UNARY, *_AXES):
        if is_op(node, "QuantizeLinear", "DequantizeLinear") and not _is_scalar(input_of(node, 1)):
            return None
        data = [0]
    elif is_op(node, *_BINARY) or is_op(node, "QAdd", domain=DOMAIN):
        data = [
            i
            for i in (0, 1)
            if not (_is_scalar(node.inputs[i]) and not is_op(node, "QAdd", domain=DOMAIN))
        ]
    else:
        return None
    found = {i: perm_of(node.inputs[i]) for i in data}
    known = {i: f for i, f in found.items() if f is not None}
    if not known or len(known) != len(found) or len({f[1] for f in known.values()}) != 1:
        return None
    if {f[1] for f in known.values()} != {TO_NCHW}:
        return None  # a transpose of the model's own stays where it is
    ranks = {len(node.inputs[i].shape or ()) for i in data}  # type: ignore[union-attr]
    perm = next(iter(known.values()))[1]
    if ranks != {len(perm)}:
        return None
    return {i: f[0] for i, f in known.items()}, perm


def _is_scalar(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and array.ndim <= 1


def _can_move_axes(node: ir.Node) -> bool:
    if is_op(node, "Slice"):
        return input_of(node, 3) is not None and all(is_constant(v) for v in node.inputs[1:] if v)
    return (
        len(node.inputs) < 4
        and constant(input_of(node, 1)) is not None
        and (attribute(node, "mode", "constant") == "constant")
    )


def _move_axes(graph: ir.Graph, node: ir.Node, perm: Perm) -> None:
    """Output axis i of the transpose is axis perm[i] of its source."""
    if is_op(node, "Slice"):
        axes = np.asarray(constant(node.inputs[3]))
        moved = np.array([perm[int(a) % len(perm)] for a in axes.ravel()], axes.dtype)
        node.replace_input_with(3, add_initializer(graph, f"{node.name}_axes", moved))
        return
    pads = np.asarray(constant(node.inputs[1])).reshape(2, -1)
    source = np.zeros_like(pads)
    source[:, list(perm)] = pads
    node.replace_input_with(1, add_initializer(graph, f"{node.name}_pads", source.ravel()))
