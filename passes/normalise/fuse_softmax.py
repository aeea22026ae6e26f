# SPDX-License-Identifier: Apache-2.0
"""Fuse a decomposed Softmax, exponentials divided by their sum, into the op.

Before:
    f (float[2,4] x) => (float[2,4] y)
    <float one = {1}, int64[1] last = {1}>
    { c = Clip (x, one, one)   m = ReduceMax <axes = [1]> (c)   d = Sub (c, m)   e = Exp (d)
      s = ReduceSum (e, last)   y = Div (e, s) }
After:
    f (float[2,4] x) => (float[2,4] y)
    <float one = {1}>
    { c = Clip (x, one, one)   y = Softmax <axis = 1> (c) }
Refuses: more axes than one; a sum without its axis, which does not broadcast.

The subtraction of the maximum is in the op; without it (e^x ÷ Σ e^x) the op gives the same number
and no infinity. A reciprocal of the sum has become a division before.
"""

import onnx_ir as ir

from qcompile.graph import attribute, is_op, new_node, rank, replace
from qcompile.int8_ops import reduced_axes
from qcompile.passes.normalise.rewiring import graph_of
from qcompile.passes.rewrite import NodePass


class FuseSoftmax(NodePass):
    """One node instead of four or five, which ONNX Runtime does not fuse."""

    stage = "normalise"
    op_types = ("Div",)

    def match(self, node: ir.Node) -> tuple[ir.Value, int] | str | None:
        """What goes in and the axis, or why the division stays."""
        exps, total = (v.producer() if v is not None else None for v in node.inputs)
        if exps is None or total is None or not is_op(exps, "Exp"):
            return None
        if not is_op(total, "ReduceSum") or total.inputs[0] is not exps.outputs[0]:
            return None
        axes, source = reduced_axes(total), exps.inputs[0]
        if source is None or rank(source) is None or axes is None or len(axes) != 1:
            return "its sum is over more axes than one, or over axes that are not known"
        if not attribute(total, "keepdims", 1):
            return "its sum has lost its axis"
        return _without_maximum(source, axes), axes[0]

    def rewrite(self, node: ir.Node, found: tuple[ir.Value, int]) -> None:
        """Softmax in its place."""
        source, axis = found
        graph, out = graph_of(node), node.outputs[0]
        name, dtype = out.name or "", out.dtype or ir.DataType.FLOAT
        made = new_node(
            "Softmax", [source], node.name or "", name, dtype=dtype, shape=out.shape, axis=axis
        )
        graph.insert_after(node, made)
        replace(out, made.outputs[0])
        graph.remove(node, safe=True)
        made.outputs[0].name = name


def _without_maximum(value: ir.Value, axes: list[int]) -> ir.Value:
    """The value before its maximum was subtracted."""
    difference = value.producer()
    if difference is None or not is_op(difference, "Sub") or difference.inputs[0] is None:
        return value
    largest = difference.inputs[1].producer() if difference.inputs[1] is not None else None
    if largest is None or not is_op(largest, "ReduceMax"):
        return value
    is_own = largest.inputs[0] is difference.inputs[0] and reduced_axes(largest) == axes
    return difference.inputs[0] if is_own else value
