# SPDX-License-Identifier: Apache-2.0
"""Store every matrix weight as [N, K]: the product reads it through a Transpose or transB.

Before:
    f (float[1,2] x) => (float[1,1] y)
    <float[2,1] w = {1, 2}>
    { y = MatMul (x, w) }
After:
    f (float[1,2] x) => (float[1,1] y)
    <float[1,2] w_nk = {1, 2}>
    { y_weight = Transpose <perm = [1, 0]> (w_nk)   y = MatMul (x, y_weight) }
Refuses: weights that are not constant matrices.

One orientation for all weights lets equal ones merge, an embedding and its transposed head among
them.
"""

import onnx_ir as ir

from qcompile.graph import attribute, derived_initializer, is_constant, new_node, rank
from qcompile.passes.rewrite import NodePass


def transposed(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """A matrix tensor as its transposed view: a mapped file stays one."""
    shape = ir.Shape(tensor.shape.numpy()[::-1])
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().T, dtype=tensor.dtype), tensor.dtype, shape
    )


class MoveTransposeOutOfWeight(NodePass):
    """MatMul [K, N] and Gemm transB = 0."""

    stage = "normalise"
    op_types = ("MatMul", "Gemm")

    def match(self, node: ir.Node) -> ir.Value | None:
        """The weight, where it is a constant [K, N]."""
        weight = node.inputs[1]
        if not is_constant(weight) or rank(weight) != 2:
            return None
        if node.op_type == "Gemm" and attribute(node, "transB", 0):
            return None
        return weight

    def rewrite(self, node: ir.Node, found: ir.Value) -> None:
        """Put the transposed weight in its place."""
        graph = node.graph
        assert isinstance(graph, ir.Graph) and found.const_value is not None
        tensor = found.const_value
        turned = derived_initializer(graph, found, "_nk", lambda: transposed(tensor))
        if node.op_type == "Gemm":
            node.attributes["transB"] = ir.AttrInt64("transB", 1)
            node.replace_input_with(1, turned)
            return
        turn = new_node(
            "Transpose",
            [turned],
            f"{node.name}/transpose",
            f"{node.outputs[0].name}_weight",
            shape=found.shape,
            dtype=found.dtype or ir.DataType.FLOAT,
            perm=[1, 0],
        )
        graph.insert_before(node, turn)
        node.replace_input_with(1, turn.outputs[0])
