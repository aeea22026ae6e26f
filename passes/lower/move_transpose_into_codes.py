# SPDX-License-Identifier: Apache-2.0
"""Move the Transpose of a static MatMul's weight into its codes; ORT's fusion needs it there.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)
      t = Transpose (w)   y = MatMul (x_dequantized, t) }
After:
    { t = DequantizeLinear <axis = 1> (w_codes_kn, w_scale)
      y = MatMul (x_dequantized, t) }
Refuses: block scales.
"""

from typing import Any

import onnx_ir as ir

from qcompile.graph import is_op, new_node, remove_dead
from qcompile.passes.lower.lower_product_into_integer_op import transposed_codes
from qcompile.passes.lower.qdq import Weight, static_of, weight_codes_of
from qcompile.passes.rewrite import NodePass


class MoveTransposeIntoCodes(NodePass):
    """MatMul with static activations."""

    stage = "lower"
    op_types = ("MatMul",)

    def match(self, node: ir.Node) -> Weight | str | None:
        """The weight."""
        weight, value = weight_codes_of(node.inputs[1]), node.inputs[1]
        if weight is None or static_of(node.inputs[0]) is None:
            return None
        if value is None or not is_op(value.producer(), "Transpose"):
            return None
        if weight.spec.granularity == "block":
            return "its weight has block scales"
        return weight

    def rewrite(self, node: ir.Node, found: Weight) -> None:
        """A DequantizeLinear of the transposed codes."""
        graph, old = node.graph, node.inputs[1]
        assert isinstance(graph, ir.Graph) and old is not None
        axis: dict[str, Any] = {"axis": 1} if found.spec.granularity == "axis" else {}
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
