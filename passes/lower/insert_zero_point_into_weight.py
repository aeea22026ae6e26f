# SPDX-License-Identifier: Apache-2.0
"""Insert the zero points of a static product's weight, which are 0, where they are left out.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)   y = Gemm (x, w) }
After:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale, zeros)   y = Gemm (x, w) }
Refuses: weights of other ops, and those that have zero points.

ONNX Runtime up to 1.23 fuses such a Gemm, or a MatMul with an Add, to QGemm, which then fails at
run time: it wants as many zero points as scales. With session.x64quantprecision, which processors
without VNNI need, 1.20 aborts over any such weight, and 1.32 makes one zero point for all outputs
of a MatMul, which then fails.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, static_shape
from qcompile.passes.lower.qdq import weight_codes_of
from qcompile.passes.rewrite import NodePass


class InsertZeroPointIntoWeight(NodePass):
    """Symmetric int8 weights of Conv, Gemm and MatMul."""

    stage = "lower"
    op_types = ("Conv", "Gemm", "MatMul")

    def match(self, node: ir.Node) -> ir.Node | None:
        """The DequantizeLinear of the weight."""
        weight = weight_codes_of(node.inputs[1])
        back = node.inputs[1].producer() if node.inputs[1] is not None else None
        if weight is None or weight.zero_point is not None or back is None:
            return None
        return back if back.op_type == "DequantizeLinear" else None

    def rewrite(self, node: ir.Node, found: ir.Node) -> None:
        """A third input of zeros."""
        codes, scale, graph = found.inputs[0], found.inputs[1], node.graph
        assert codes is not None and codes.dtype is not None and scale is not None
        assert isinstance(graph, ir.Graph)
        zeros = np.zeros(static_shape(scale) or (), codes.dtype.numpy())
        found.resize_inputs(3)
        found.replace_input_with(2, add_initializer(graph, f"{codes.name}_zero_point", zeros))
