# SPDX-License-Identifier: Apache-2.0
"""Insert the zero points of a product's weight, which are 0, where its DequantizeLinear has none.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)   y = Gemm (x, w) }
After:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale, zeros)   y = Gemm (x, w) }

ONNX Runtime up to 1.23 fuses such a Gemm to QGemm, which then fails at run time: it wants as many
zero points as scales. A MatMul with an Add it may turn into a Gemm first. On processors without
VNNI it turns int8 weights of any MatMul into uint8 ones with one zero point for all scales, which
fails at run time, too (1.32).
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, static_shape
from qcompile.passes.lower.qdq import weight_codes_of
from qcompile.passes.rewrite import NodePass


class InsertZeroPointIntoGemm(NodePass):
    """Symmetric int8 weights of Gemm and MatMul."""

    stage = "lower"
    op_types = ("Gemm", "MatMul")

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
