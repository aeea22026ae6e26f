# SPDX-License-Identifier: Apache-2.0
"""Quantize again what an op that only moves data gives, so that the ops behind it read codes.

Before:
    f (uint8[2,1] c, float[2,1] v) => (float[1,1] y)
    <float s = {0.5}, uint8 z = {1}>
    { x = DequantizeLinear (c, s, z)   t = Transpose (x)   y = MatMul (t, v) }
After:
    f (uint8[2,1] c, float[2,1] v) => (float[1,1] y)
    <float s = {0.5}, uint8 z = {1}>
    { x = DequantizeLinear (c, s, z)   t = Transpose (x)
      t_kept_codes = QuantizeLinear (t, s, z)   t_kept = DequantizeLinear (t_kept_codes, s, z)
      y = MatMul (t_kept, v) }
Refuses: graph outputs, values that are quantized already, values that no int8 op reads; a Pad of
other numbers than 0, and one that a Conv reads, which takes it in.

Exact, with the scale of its input. Some tools put quantizers before such ops only.
"""

import onnx_ir as ir

from qcompile.graph import constant, input_of, is_op, new_node, unique_name
from qcompile.int8_ops import why_not_moved
from qcompile.passes.rewrite import NodePass

_MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Pad")
_READS = ("Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool")


class InsertQuantizerBehindDataOp(NodePass):
    """One op after the other, in graph order."""

    stage = "normalise"
    op_types = _MOVES

    def match(self, node: ir.Node) -> ir.Node | str | None:
        """What dequantizes its input."""
        back = node.inputs[0].producer() if node.inputs[0] is not None else None
        if back is None or not is_op(back, "DequantizeLinear") or len(node.outputs) > 1:
            return None
        codes, scale, point = back.inputs[0], constant(back.inputs[1]), input_of(back, 2)
        if codes is None or codes.const_value is not None or constant(point) is None:
            return None
        if codes.dtype != ir.DataType.UINT8 or scale is None or scale.size != 1:
            return "its input has no uint8 codes of one scale"
        readers = [use.node for use in node.outputs[0].uses()]
        if node.outputs[0].is_graph_output():
            return "it gives a graph output"
        if any(is_op(n, "QuantizeLinear") for n in readers):
            return "its output is quantized already"
        if is_op(node, "Pad") and any(is_op(n, "Conv") for n in readers):
            return "a Conv takes it in"
        reason = why_not_moved(node)
        if reason is not None:
            return reason
        return back if any(is_op(n, *_READS, *_MOVES) for n in readers) else "no int8 op reads it"

    def rewrite(self, node: ir.Node, found: ir.Node) -> None:
        """A pair behind the op."""
        graph, out = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        name = unique_name(graph, f"{out.name}_kept")
        forth = new_node(
            "QuantizeLinear",
            [out, *found.inputs[1:3]],
            f"{name}/quantize",
            unique_name(graph, f"{name}_codes"),
            dtype=ir.DataType.UINT8,
            shape=out.shape,
        )
        inputs = [forth.outputs[0], *found.inputs[1:3]]
        back = new_node("DequantizeLinear", inputs, f"{name}/dequantize", name, shape=out.shape)
        out.replace_all_uses_with(back.outputs[0])
        forth.replace_input_with(0, out)
        graph.insert_after(node, [forth, back])
