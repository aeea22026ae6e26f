# SPDX-License-Identifier: Apache-2.0
"""Move the Transpose of a static MatMul's weight into its codes, where ORT's QLinearMatMul fusion looks for it.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)   t = Transpose (w)   y = MatMul (x_dequantized, t) }
After:
    { t = DequantizeLinear <axis = 1> (w_codes_kn, w_scale)   y = MatMul (x_dequantized, t) }
Refuses: block scales.
"""

import onnx_ir as ir

from qcompile.graph import new_node, remove_dead
from qcompile.passes.lower.lower_product_into_integer_op import transposed_codes
from qcompile.passes.lower.qdq import Weight, static_of, weight_codes_of
from qcompile.passes.rewrite import NodePass


class MoveTransposeIntoCodes(NodePass):
    """MatMul with static activations."""

    stage = "lower"
    op_types = ("MatMul",)

    def match(self, node: ir.Node) -> Weight | None:
        """The weight."""
        weight = weight_codes_of(node.inputs[1])
        if weight is None or static_of(node.inputs[0]) is None:
            return None
        return weight if weight.spec.granularity in ("axis", "tensor") else None

    def rewrite(self, node: ir.Node, found: Weight) -> None:
        """A DequantizeLinear of the transposed codes."""
        graph, old = node.graph, node.inputs[1]
        assert isinstance(graph, ir.Graph) and old is not None
        axis = {"axis": 1} if found.spec.granularity == "axis" else {}
        codes = transposed_codes(graph, found.codes)
        back = new_node(
            "DequantizeLinear",
            [codes, found.scale],
            f"{node.name}/dequantize",
            f"{node.name}_weight",
            shape=old.shape,
            **axis,
        )
        back.outputs[0].metadata_props["qcompile.spec"] = str(found.spec)
        graph.insert_before(node, back)
        node.replace_input_with(1, back.outputs[0])
        producer = old.producer()
        remove_dead(graph, [producer] if producer is not None else [])
