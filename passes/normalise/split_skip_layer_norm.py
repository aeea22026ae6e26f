# SPDX-License-Identifier: Apache-2.0
"""Split com.microsoft SkipLayerNormalization into the sums and the normalisation.

Before:
    f (float[1,2,2] x, float[1,2,2] z) => (float[1,2,2] y)
    <float[2] g = {1, 1}, float[2] b = {0, 0}, float[2] k = {1, 2}>
    { y = com.microsoft.SkipLayerNormalization <epsilon = 1.0> (x, z, g, b, k) }
After:
    f (float[1,2,2] x, float[1,2,2] z) => (float[1,2,2] y)
    <float[2] g = {1, 1}, float[2] b = {0, 0}, float[2] k = {1, 2}>
    { y_biased = Add (x, k)   y_sum = Add (y_biased, z)
      y = LayerNormalization <axis = -1, epsilon = 1.0> (y_sum, g, b) }
Refuses: an opset below 17, which has no LayerNormalization; a mean or a deviation that is read.

The bias is that of the product which gives x. SkipSimplifiedLayerNormalization becomes ONNX
Runtime's SimplifiedLayerNormalization. ONNX Runtime fuses both again where they stay float.
"""

from typing import Any

import onnx_ir as ir

from qcompile.graph import attribute, input_of, new_node
from qcompile.passes.normalise.rewiring import give, graph_of
from qcompile.passes.rewrite import NodePass


class SplitSkipLayerNorm(NodePass):
    """Residual sums; their result, the fourth output, may be read."""

    stage = "normalise"
    op_types = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
    domain = "com.microsoft"

    def match(self, node: ir.Node) -> bool | str | None:
        """True, or why the node stays."""
        if graph_of(node).opset_imports.get("", 0) < 17:
            return "opset 17 has the first LayerNormalization"
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:3]):
            return "its mean or its deviation is read"
        return True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """Bias, sum, norm."""
        is_rms = node.op_type == "SkipSimplifiedLayerNormalization"
        bias = input_of(node, 3 if is_rms else 4)
        source = node.inputs[0]
        if bias is not None:
            source = self._insert(node, "Add", [source, bias], "biased")
        total = self._insert(node, "Add", [source, node.inputs[1]], "sum")
        end = self._insert(
            node,
            "SimplifiedLayerNormalization" if is_rms else "LayerNormalization",
            [total, *node.inputs[2 : 3 if is_rms else 4]],
            "norm",
            axis=-1,
            epsilon=float(attribute(node, "epsilon", 1e-12)),
        )
        if len(node.outputs) > 3:
            give(node.outputs[3], total)
        give(node.outputs[0], end)
        graph_of(node).remove(node, safe=True)

    def _insert(
        self,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        part: str,
        **attributes: Any,
    ) -> ir.Value:
        output = node.outputs[0]
        made = new_node(
            op_type,
            inputs,
            f"{node.name}/{part}",
            f"{output.name}_{part}",
            dtype=output.dtype or ir.DataType.FLOAT,
            shape=output.shape,
            **attributes,
        )
        graph_of(node).insert_before(node, made)
        return made.outputs[0]
