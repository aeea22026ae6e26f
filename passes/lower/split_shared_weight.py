# SPDX-License-Identifier: Apache-2.0
"""Give each product of ONNX Runtime's its own name of a weight that several of them share.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)
      y = Gemm (x, w)   z = Gemm (y, w) }
After:
    { w1 = DequantizeLinear <axis = 0> (y_codes, w_scale)   y = Gemm (x, w1)
      w = DequantizeLinear <axis = 0> (w_codes, w_scale)   z = Gemm (y, w) }
Refuses: weights of one product, those that are no int8.

With session.x64quantprecision, which processors without VNNI need, ONNX Runtime 1.32 makes an
initializer NAME_s8_2_u8 of the weight of each product, and does not open a model where two have one
name. Equal bytes are written once, so the file does not grow.
"""

import onnx_ir as ir

from qcompile.graph import add_initializer, input_of, is_op, new_node, remove_dead
from qcompile.passes.rewrite import NodePass

_CODES, _POINT = 0, 2  # inputs of DequantizeLinear


class SplitSharedWeight(NodePass):
    """Conv, Gemm and MatMul of dequantized codes, MatMulInteger."""

    stage = "lower"
    op_types = ("Conv", "Gemm", "MatMul", "MatMulInteger")

    def match(self, node: ir.Node) -> ir.Value | None:
        """The codes, where another product reads them too."""
        codes = _codes_of(node)
        return codes if codes is not None and len(_readers(codes)) > 1 else None

    def rewrite(self, node: ir.Node, found: ir.Value) -> None:
        """The node reads a copy; the last one keeps the codes."""
        graph, value = node.graph, node.inputs[1]
        assert isinstance(graph, ir.Graph) and value is not None
        copy = _copied(graph, found, f"{node.name}_codes")
        if is_op(node, "MatMulInteger"):
            node.replace_input_with(1, copy)
            return
        back = value.producer()
        assert back is not None
        point = input_of(back, _POINT)
        if point is not None:
            point = _copied(graph, point, f"{node.name}_zero_point")
        inputs = [copy, back.inputs[1], *([] if point is None else [point])]
        own = new_node(
            "DequantizeLinear",
            inputs,
            f"{node.name}/dequantize",
            f"{node.name}_weight",
            shape=value.shape,
        )
        own.attributes.update(back.attributes)
        own.outputs[0].metadata_props.update(value.metadata_props)
        graph.insert_before(node, own)
        node.replace_input_with(1, own.outputs[0])
        remove_dead(graph, [back])


def _codes_of(node: ir.Node) -> ir.Value | None:
    """The int8 initializer that ONNX Runtime takes as the product's weight."""
    value = node.inputs[1]
    back = value.producer() if value is not None else None
    if back is not None and is_op(back, "DequantizeLinear"):
        value = back.inputs[_CODES]
    if value is None or value.const_value is None or value.dtype != ir.DataType.INT8:
        return None
    return value


def _readers(codes: ir.Value) -> list[ir.Node]:
    """The products of the codes, one by one, also behind one DequantizeLinear."""
    nodes = [use.node for use in codes.uses()]
    behind = [
        use.node for n in nodes if is_op(n, "DequantizeLinear") for use in n.outputs[0].uses()
    ]
    return [n for n in (*nodes, *behind) if is_op(n, *SplitSharedWeight.op_types)]


def _copied(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """An initializer of the same elements under a new name."""
    tensor = value.const_value
    assert tensor is not None
    same = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy()), tensor.dtype, ir.Shape(tensor.shape.numpy())
    )
    return add_initializer(graph, name, same)
