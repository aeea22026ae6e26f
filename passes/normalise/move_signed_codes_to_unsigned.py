# SPDX-License-Identifier: Apache-2.0
"""Make int8 activations uint8: codes and zero points move up by 128, the numbers stay.

Before:
    f (float[1] x) => (float[1] y)
    <float s = {0.5}, int8 z = {0}>
    { c = QuantizeLinear (x, s, z)   y = DequantizeLinear (c, s, z) }
After:
    f (float[1] x) => (float[1] y)
    <float s = {0.5}, uint8 z_unsigned = {128}>
    { c = QuantizeLinear (x, s, z_unsigned)   y = DequantizeLinear (c, s, z_unsigned) }
Refuses: codes that something else reads than DequantizeLinear, and codes that are a graph output.

A pair without a zero point gets one, 0. A Clip of the codes moves with them.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, constant, derived_initializer, input_of, is_op
from qcompile.passes.rewrite import NodePass

_SHIFT = 128


class MoveSignedCodesToUnsigned(NodePass):
    """Pairs of one scale."""

    stage = "normalise"
    op_types = ("QuantizeLinear",)

    def match(self, node: ir.Node) -> list[ir.Node] | str | None:
        """Every node that names the zero point: the quantizer, a Clip, the dequantizers."""
        point = input_of(node, 2)
        array = constant(point)
        if point is not None and (array is None or array.dtype != np.int8):
            return None
        if attribute_type(node) not in (0, ir.DataType.INT8, ir.DataType.UINT8):
            return None
        found, todo = [node], [node.outputs[0]]
        for codes in todo:
            if codes.is_graph_output():
                return "its codes are a graph output"
            for use in codes.uses():
                if is_op(use.node, "Clip") and len(todo) == 1:
                    todo.append(use.node.outputs[0])
                elif not is_op(use.node, "DequantizeLinear"):
                    return f"{use.node.op_type} reads its codes"
                found.append(use.node)
        return found

    def rewrite(self, node: ir.Node, found: list[ir.Node]) -> None:
        """Zero points up by 128, and the bounds of a Clip."""
        graph, is_signed = node.graph, input_of(node, 2) is not None
        assert isinstance(graph, ir.Graph)
        is_signed |= attribute_type(node) == ir.DataType.INT8
        node.attributes.pop("output_dtype", None)
        for each in found:
            if is_op(each, "Clip"):
                for i in range(1, len(each.inputs)):
                    each.replace_input_with(i, _moved(graph, each.inputs[i]))
            else:
                _move_point(graph, each, is_signed=is_signed)
            if not is_op(each, "DequantizeLinear"):
                each.outputs[0].type = ir.TensorType(ir.DataType.UINT8)


def attribute_type(node: ir.Node) -> int:
    """The type that QuantizeLinear gives without a zero point; 0 = as ONNX says, uint8."""
    found = node.attributes.get("output_dtype")
    return 0 if found is None else int(found.value)


def _move_point(graph: ir.Graph, node: ir.Node, *, is_signed: bool) -> None:
    point = input_of(node, 2)
    if point is not None and point.dtype == ir.DataType.UINT8:
        return
    if point is None:
        scale = constant(node.inputs[1])
        shape = () if scale is None else scale.shape
        middle = np.full(shape, _SHIFT if is_signed else 0, np.uint8)
        node.resize_inputs(3)
        node.replace_input_with(2, add_initializer(graph, f"{node.name}_zero_point", middle))
        return
    node.replace_input_with(2, _moved(graph, point))


def _moved(graph: ir.Graph, value: ir.Value | None) -> ir.Value | None:
    array = constant(value)
    if value is None or array is None:
        return value
    up = (array.astype(np.int16) + _SHIFT).astype(np.uint8)
    return derived_initializer(graph, value, "_unsigned", lambda: ir.tensor(up))
