# SPDX-License-Identifier: Apache-2.0
"""Move a Transpose past ops that do not care, and remove it where it meets its inverse.

Before:
    { t = Transpose <perm = [0, 3, 1, 2]> (x)   r = Relu (t)
      u = Transpose <perm = [0, 2, 3, 1]> (r)   y = com.qcompile.QConv (u) }
After:
    { r_nhwc = Relu (x)   y = com.qcompile.QConv (r_nhwc) }
Refuses: inputs with different transposes; Slice and Pad whose axes are not constant;
an interpolation that ORT does not have along the renamed axes.

Quantized regions stay NHWC from their first op to their last; a transpose remains where floats in
NCHW enter or leave.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    DOMAIN,
    LAYOUT,
    NHWC,
    attribute,
    constant,
    derived_initializer,
    input_of,
    is_constant,
    is_op,
    remove_dead,
    replace,
)
from qcompile.passes.lower.lowered import TO_NCHW, permuted, transpose
from qcompile.passes.lower.move_axes import AXES, can_move_axes, move_axes
from qcompile.passes.lower.move_channel_shuffle import move_past_shuffle
from qcompile.passes.lower.move_pixels import move_past_pixels
from qcompile.passes.lower.move_rows import move_past_rows

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
                    changed |= (
                        _share(graph, node)
                        or _cancel(graph, node)
                        or _skip_one_pixel(graph, node)
                        or move_past_shuffle(graph, node)
                        or move_past_pixels(graph, node)
                        or move_past_rows(graph, node)
                        or _move(graph, node)
                    )
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


def _share(graph: ir.Graph, node: ir.Node) -> bool:
    """Transposes of one value to the same order are the first of them."""
    if perm_of(node.outputs[0]) is None or node.inputs[0] is None:
        return False
    same = {
        use.node
        for use in node.inputs[0].uses()
        if perm_of(use.node.outputs[0]) == perm_of(node.outputs[0])
    }
    if len(same) < 2:
        return False
    first, *later = [n for n in graph if n in same]
    later = [n for n in later if not n.outputs[0].is_graph_output()]
    for other in later:
        other.outputs[0].replace_all_uses_with(first.outputs[0])
    remove_dead(graph, later)
    return bool(later)


def _move(graph: ir.Graph, node: ir.Node) -> bool:
    """Apply the op to the sources, and transpose its outputs instead."""
    found = _sources(node)
    if found is None:
        return False
    sources, perm = found
    if is_op(node, *AXES) and not can_move_axes(node, perm):
        return False
    producers = [v.producer() for v in node.inputs if v is not None and perm_of(v) is not None]
    if is_op(node, *AXES):
        move_axes(graph, node, perm)
    if is_op(node, *_BINARY):
        _move_constants(graph, node)
    for index, source in sources.items():
        node.replace_input_with(index, source)
    for out in node.outputs:
        _transpose_after(graph, node, out, perm)
    remove_dead(graph, [p for p in producers if p is not None])
    return True


def _transpose_after(graph: ir.Graph, node: ir.Node, out: ir.Value, perm: Perm) -> None:
    inverse = tuple(int(i) for i in np.argsort(perm))
    after = transpose(out, perm, f"{out.name}_nchw")  # takes the name where it is a graph output
    after.outputs[0].shape, out.shape = out.shape, permuted(out.shape, inverse)
    graph.insert_after(node, after)
    name = out.name
    replace(out, after.outputs[0])
    after.replace_input_with(0, out)
    out.name, after.outputs[0].name = f"{name}_nhwc", name
    out.metadata_props[LAYOUT] = NHWC


def _skip_one_pixel(graph: ir.Graph, node: ir.Node) -> bool:
    """A map of one pixel has its numbers in the same order in both layouts."""
    if not is_op(node, "Reshape", "Flatten"):
        return False
    found = perm_of(node.inputs[0])
    if found is None or found[1] != TO_NCHW or attribute(node, "axis", 1) != 1:
        return False
    source, dims = found[0], found[0].shape
    if dims is None or dims[1] != 1 or dims[2] != 1:
        return False
    if is_op(node, "Reshape"):
        wanted = constant(node.inputs[1])
        if wanted is None or attribute(node, "allowzero", 0) or (wanted[1:] == 0).any():
            return False  # a 0 copies a size of the input, which the layout moves
    back = node.inputs[0].producer() if node.inputs[0] is not None else None
    node.replace_input_with(0, source)
    remove_dead(graph, [back] if back is not None else [])
    return True


def _sources(node: ir.Node) -> tuple[dict[int, ir.Value], Perm] | None:
    """Input index → source, and the permutation that all data inputs (but scalars) share."""
    data = _data_inputs(node)
    if data is None:
        return None
    found = {i: perm_of(node.inputs[i]) for i in data}
    known = {i: f for i, f in found.items() if f is not None}
    if not known or len(known) != len(found) or {f[1] for f in known.values()} != {TO_NCHW}:
        return None  # a transpose of the model's own stays where it is
    if {len(node.inputs[i].shape or ()) for i in data} != {len(TO_NCHW)}:  # type: ignore[union-attr]
        return None
    return {i: f[0] for i, f in known.items()}, TO_NCHW


def _data_inputs(node: ir.Node) -> list[int] | None:
    """The inputs that have the layout of the output; None for an op that cannot move."""
    if is_op(node, "QLut", domain=DOMAIN):
        return [0]
    if is_op(node, "QAdd", "QMul", domain=DOMAIN):
        return [0, 1]
    if is_op(node, "Concat"):
        return list(range(len(node.inputs)))
    if is_op(node, *_BINARY):
        return [i for i in (0, 1) if not _is_of_channels(node, i)]
    if is_op(node, "QuantizeLinear", "DequantizeLinear") and not _is_scalar(input_of(node, 1)):
        return None
    return [0] if is_op(node, *_UNARY, *AXES) else None


def _is_of_channels(node: ir.Node, index: int) -> bool:
    """Whether the input is a constant number, or [C, 1, 1] or [1, C, 1, 1] for C channels."""
    value = node.inputs[index]
    if _is_scalar(value):
        return True
    array, out = constant(value), node.outputs[0].shape
    if array is None or out is None or len(out) != len(TO_NCHW):
        return False
    wanted = (1, out[1], 1, 1)
    return array.ndim in (3, 4) and array.shape == wanted[-array.ndim :]


def _move_constants(graph: ir.Graph, node: ir.Node) -> None:
    """The constants of channels, where these are the last axis."""
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if value is None or array is None or _is_scalar(value):
            continue
        flat = ir.tensor(np.ascontiguousarray(array.reshape(-1)))
        last = derived_initializer(graph, value, "_channels", lambda made=flat: made)  # type: ignore[misc]
        node.replace_input_with(index, last)


def _is_scalar(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and array.ndim <= 1
