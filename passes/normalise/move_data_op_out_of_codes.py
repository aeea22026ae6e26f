# SPDX-License-Identifier: Apache-2.0
"""Let ops that only move data move numbers, not codes, so that one form of them is left.

Before:
    f (float[2,1] x) => (float[1,2] y)
    <float s = {0.5}, uint8 z = {1}>
    { c = QuantizeLinear (x, s, z)   t = Transpose (c)   y = DequantizeLinear (t, s, z) }
After:
    f (float[2,1] x) => (float[1,2] y)
    <float s = {0.5}, uint8 z = {1}>
    { c = QuantizeLinear (x, s, z)   t_x_real = DequantizeLinear (c, s, z)
      t_real = Transpose (t_x_real)   t = QuantizeLinear (t_real, s, z)
      y = DequantizeLinear (t, s, z) }
Refuses: codes whose scale is not known, or is not one for the whole tensor.

Exact: a code that is dequantized and quantized with one scale stays what it is.
"""

import onnx_ir as ir

from qcompile.graph import constant, is_op, new_node, unique_name
from qcompile.passes.normalise.split_qlinear_op_into_qdq import take_place
from qcompile.passes.rewrite import NodePass

_CODES = (ir.DataType.INT8, ir.DataType.UINT8)
Params = tuple[ir.Value, ir.Value]


class MoveDataOpOutOfCodes(NodePass):
    """Shape ops, Gather and MaxPool on int8 and uint8."""

    stage = "normalise"
    op_types = (
        *("Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze"),
        *("MaxPool", "Gather"),
    )

    def match(self, node: ir.Node) -> Params | str | None:
        """The scale and zero point of the codes."""
        codes = node.inputs[0]
        if codes is None or codes.dtype not in _CODES or len(node.outputs) > 1:
            return None
        found = params_of_codes(codes) or params_of_codes(node.outputs[0])
        return found or "the scale of its codes is not known"

    def rewrite(self, node: ir.Node, found: Params) -> None:
        """The op between a dequantizer and a quantizer of the same scale."""
        graph, codes, out = node.graph, node.inputs[0], node.outputs[0]
        assert isinstance(graph, ir.Graph) and codes is not None and codes.dtype is not None
        back_name = unique_name(graph, f"{out.name}_x_real")
        back = new_node(
            "DequantizeLinear",
            [codes, *found],
            f"{back_name}/dequantize",
            back_name,
            shape=codes.shape,
        )
        moved = new_node(
            node.op_type,
            [back.outputs[0], *node.inputs[1:]],
            node.name or "",
            unique_name(graph, f"{out.name}_real"),
            shape=out.shape,
        )
        moved.attributes.update(node.attributes)
        forth = new_node(
            "QuantizeLinear",
            [moved.outputs[0], *found],
            f"{out.name}/quantize",
            out.name or "",
            dtype=codes.dtype,
            shape=out.shape,
        )
        take_place(graph, node, [back, moved, forth])


def params_of_codes(codes: ir.Value) -> Params | None:
    """Scale and zero point by the quantizer that makes the codes, or a dequantizer behind them."""
    producer = codes.producer()
    near = [producer] if is_op(producer, "QuantizeLinear") else []
    for node in (*near, *(use.node for use in codes.uses())):
        assert node is not None
        if is_op(node, "QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
            scale, point = node.inputs[1], node.inputs[2]
            array = constant(scale)
            if array is not None and array.size == 1 and constant(point) is not None:
                assert scale is not None and point is not None
                return scale, point
        elif is_op(node, *MoveDataOpOutOfCodes.op_types) and node.inputs[0] is codes:
            found = params_of_codes(node.outputs[0])
            if found is not None:
                return found
    return None
