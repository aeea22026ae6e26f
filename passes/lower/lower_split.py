# SPDX-License-Identifier: Apache-2.0
"""Lower a Split of a quantized tensor to a Split of its codes.

Before:
    { a, b = Split (DequantizeLinear (x_codes))   a_codes = QuantizeLinear (a)
      y = Relu (b) }
After:
    { a_codes, b_codes = Split (x_codes)   b = DequantizeLinear (b_codes)   y = Relu (b) }
Refuses: no output becomes codes; an output has another scale than the input.
"""

import onnx_ir as ir

from qcompile.graph import is_op, new_node, remove_dead, replace
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerSplit(NodePass):
    """An output that stays float is dequantized behind the Split."""

    stage = "lower"
    op_types = ("Split",)

    def match(self, node: ir.Node) -> tuple[Static, list[End | None]] | str | None:
        """The codes on both sides."""
        static = static_of(node.inputs[0])
        if static is None:
            return None
        ends = [end_of(v) for v in node.outputs]
        known = [e for e in ends if e is not None]
        if not known:
            return "none of its outputs becomes codes"
        if any(not is_op(e.passed[0], "QuantizeLinear") for e in known):
            return "an op stands between it and its codes"
        if {(e.scale, e.zero_point) for e in known} != {(static.scale, static.zero_point)}:
            return "an output has another scale than its input"
        return static, ends

    def rewrite(self, node: ir.Node, found: tuple[Static, list[End | None]]) -> None:
        """The same Split on the codes."""
        static, ends = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        attributes = {k: a.value for k, a in node.attributes.items()}
        inputs = [static.codes, *node.inputs[1:]]
        split = ir.node("Split", inputs, attributes, num_outputs=len(ends), name=node.name)
        graph.insert_before(node, split)
        for old, made, end in zip(node.outputs, split.outputs, ends, strict=True):
            name = f"{old.name}_codes" if end is None else end.codes.name or ""
            made.type, made.shape = ir.TensorType(ir.DataType.UINT8), old.shape
            if end is None:
                back = new_node(
                    "DequantizeLinear",
                    [made, *static.back.inputs[1:]],
                    f"{old.name}/dequantize",
                    f"{old.name}_float",
                    shape=old.shape,
                )
                graph.insert_before(node, back)
                made.name, label = name, old.name
                replace(old, back.outputs[0])
                old.name, back.outputs[0].name = f"{label}_split", label
                continue
            made.metadata_props.update(end.codes.metadata_props)
            replace(end.codes, made)
            remove_dead(graph, end.passed)
            made.name = name
        remove_dead(graph, [static.back, node])
