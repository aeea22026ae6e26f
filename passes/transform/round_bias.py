# SPDX-License-Identifier: Apache-2.0
"""Round the bias of static products to int32 codes of scale x_scale · w_scale (N7).

Before:
    { y = Conv (x_dequantized, w_dequantized, b) }
After:
    { b_dequantized = DequantizeLinear <axis = 0> (b_codes, b_scale)
      y = Conv (x_dequantized, w_dequantized, b_dequantized) }
Refuses: float and dynamic products, whose bias stays f32.

Where the time step chooses x_scale, both constants are rows of tables that it chooses.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    add_initializer,
    constant,
    input_of,
    is_constant,
    new_node,
)
from qcompile.numerics.quantize import bias_codes
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.correct_bias import bias_place
from qcompile.passes.transform.stats import Work
from qcompile.step_tables import insert_row, table_of_steps


class RoundBias(NodePass):
    """Conv and Gemm, and the constant Add after a MatMul."""

    stage = "transform"
    op_types = ("Conv", "Gemm", "MatMul")

    def __init__(self, work: Work, store: CodeStore) -> None:
        super().__init__()
        self.work, self.store = work, store

    def match(self, node: ir.Node) -> tuple[ir.Node, int] | None:
        """The node that holds the bias, and which input it is."""
        plan = self.work.plan.nodes.get(node.name or "")
        if plan is None or plan.activation is None or plan.activation.is_dynamic:
            return None
        place = bias_place(node)
        return place if place is not None and is_constant(input_of(*place)) else None

    def rewrite(self, node: ir.Node, found: tuple[ir.Node, int]) -> None:
        """Codes and a DequantizeLinear in its place."""
        holder, index = found
        value, graph = holder.inputs[index], node.graph
        plan = self.work.plan.nodes[node.name or ""]
        assert value is not None and isinstance(graph, ir.Graph) and node.inputs[0] is not None
        back = node.inputs[0].producer()
        assert back is not None
        table = table_of_steps(back.inputs[1])
        found_scale = constant(back.inputs[1]) if table is None else table.rows[:, None]
        x_scale = np.asarray(found_scale, np.float64)  # [N] of a depthwise Conv, [T, 1] by step
        weight = self.store.get(plan.weight_name)
        assert weight.scale is not None
        w_scale = weight.scale[:, 0]
        codes = bias_codes(np.asarray(constant(value), np.float32), x_scale, w_scale)
        scale = (x_scale * w_scale.astype(np.float64)).astype(np.float32)
        name = f"{node.outputs[0].name}_bias"
        inputs = [
            add_initializer(graph, f"{name}_{what}", array)
            if table is None
            else insert_row(graph, table.index, array, f"{name}_{what}")
            for what, array in (("codes", codes), ("scale", scale))
        ]
        dequantize = new_node(
            "DequantizeLinear",
            inputs,
            f"{name}/dequantize",
            f"{name}_dequantized",
            shape=value.shape,
            axis=0,
        )
        graph.insert_before(holder, dequantize)
        holder.replace_input_with(index, dequantize.outputs[0])
