# SPDX-License-Identifier: Apache-2.0
"""Split com.microsoft BiasGelu, and FastGelu with a bias, into a sum and the function.

Before:
    f (float[2,2] x) => (float[2,2] y)
    <float[2] b = {1, 2}>
    { y = com.microsoft.BiasGelu (x, b) }
After:
    f (float[2,2] x) => (float[2,2] y)
    <float[2] b = {1, 2}>
    { y_sum = Add (x, b)   y = com.microsoft.Gelu (y_sum) }
Refuses: a bias that is not constant.

The sum is the bias of the product before it, the function a table between codes. ONNX Runtime
fuses both again where they stay float.
"""

import onnx_ir as ir

from qcompile.graph import input_of, is_constant
from qcompile.passes.normalise.rewiring import prepend
from qcompile.passes.rewrite import NodePass


class SplitBiasGelu(NodePass):
    """What ONNX Runtime's optimiser makes of a linear layer's bias and activation."""

    stage = "normalise"
    op_types = ("BiasGelu", "FastGelu")
    domain = "com.microsoft"

    def match(self, node: ir.Node) -> bool | str | None:
        """True, or why the node stays."""
        bias = input_of(node, 1)
        if bias is None:
            return None
        return True if is_constant(bias) else "its bias is not constant"

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """Add before it."""
        prepend(node, 0, "Add", node.inputs[1], suffix="sum", shape=node.outputs[0].shape)
        node.resize_inputs(1)
        if node.op_type == "BiasGelu":
            node.op_type = "Gelu"
