# SPDX-License-Identifier: Apache-2.0
"""Fold DequantizeLinear of a stored vector into the floats that it gives.

Before:
    f (float[2] x) => (float[2] y)
    <uint8[2] c = {3, 5}, float s = {0.5}, uint8 z = {1}>
    { b = DequantizeLinear (c, s, z)   y = Add (x, b) }
After:
    f (float[2] x) => (float[2] y)
    <float[2] b_float = {1.0, 2.0}>
    { y = Add (x, b_float) }
Refuses: matrices, whose floats would be four times their codes; scales that are no float32.

ONNX Runtime does not fold it, so that its own quantized ops find the codes; what reads these is
float, and would wait for the op in every run.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, constant, input_of, is_constant, rank
from qcompile.imported import decoded
from qcompile.passes.rewrite import NodePass


class FoldDequantizeIntoFloats(NodePass):
    """Scalars and vectors that no int8 op has taken: scales and biases of normalizations."""

    stage = "lower"
    op_types = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> bool | str | None:
        """True where the floats can be computed."""
        codes, scale, point = node.inputs[0], constant(node.inputs[1]), input_of(node, 2)
        if not is_constant(codes) or node.outputs[0].is_graph_output():
            return None
        if (rank(codes) or 0) > 1:
            return "its codes are no vector"
        if scale is None or scale.dtype != np.float32 or scale.ndim > 1:
            return "its scale is no float32 constant"
        if point is not None and constant(point) is None:
            return "its zero point is computed at run time"
        return True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """An initializer in its place."""
        graph, out = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        floats = decoded(node).reshape(np.asarray(constant(node.inputs[0])).shape)
        out.replace_all_uses_with(add_initializer(graph, f"{out.name}_float", floats))
        graph.remove(node, safe=True)
