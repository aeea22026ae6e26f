# SPDX-License-Identifier: Apache-2.0
"""Move the constant of a product W · x to the right: W · x = (xᵀ · Wᵀ)ᵀ.

Before:
    f (float[2,3] x) => (float[1,3] y)
    <float[1,2] w = {1, 2}>
    { y = MatMul (w, x) }
After:
    f (float[2,3] x) => (float[1,3] y)
    <float[1,2] w = {1, 2}>
    { y_x = Transpose <perm = [1, 0]> (x)   y_w = Transpose <perm = [1, 0]> (w)
      y_turned = MatMul (y_x, y_w)   y = Transpose <perm = [1, 0]> (y_turned) }
Refuses: an x of unknown rank; a stack of matrices; a vector on either side.

W is [N, K] as it stands, so it is not copied.
"""

import onnx_ir as ir

from qcompile.graph import is_constant, rank
from qcompile.passes.normalise.rewiring import append, derived, dims, prepend, swap, swapped
from qcompile.passes.rewrite import NodePass


class MoveWeightToRight(NodePass):
    """MatMul with a constant on the left and none on the right."""

    stage = "normalise"
    op_types = ("MatMul",)

    def match(self, node: ir.Node) -> int | str | None:
        """The rank of x, or why the product stays as it is."""
        left, right = node.inputs[0], node.inputs[1]
        if not is_constant(left) or is_constant(right) or _reads_weight(right):
            return None
        size, x_rank = dims(left), rank(right)
        if x_rank is None:
            return "the rank of its right operand is not known"
        if len(size) < 2 or x_rank < 2:
            return "one of its operands is a vector"
        if any(d != 1 for d in size[:-2]) or len(size) > x_rank:
            return "its weight is a stack of matrices"
        return x_rank

    def rewrite(self, node: ir.Node, found: int) -> None:
        """Turn both operands and the result."""
        weight, x = node.inputs[0], node.inputs[1]
        assert weight is not None and x is not None
        size = dims(weight)[-2:]
        if len(dims(weight)) > 2:
            weight = derived(node, weight, "_matrix", size, lambda w: w.reshape(size))
        node.replace_input_with(0, x)
        node.replace_input_with(1, weight)
        perm = swap(found)
        prepend(node, 0, "Transpose", suffix="x", shape=swapped(x.shape), perm=perm)
        prepend(node, 1, "Transpose", suffix="w", shape=ir.Shape(size[::-1]), perm=[1, 0])
        inner = swapped(node.outputs[0].shape)
        append(node, "Transpose", suffix="turned", shape=inner, perm=perm)


def _reads_weight(value: ir.Value | None) -> bool:
    """Whether the value is a constant read through a Transpose."""
    producer = value.producer() if value is not None else None
    return (
        producer is not None and producer.op_type == "Transpose" and is_constant(producer.inputs[0])
    )
