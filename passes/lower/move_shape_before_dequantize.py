# SPDX-License-Identifier: Apache-2.0
"""Move Shape before DequantizeLinear: codes have the shape of the numbers they stand for.

Before:
    { x = DequantizeLinear (x_codes, s, z)   y = Shape (x) }
After:
    { y = Shape (x_codes) }
Refuses: nothing.
"""

import onnx_ir as ir

from qcompile.passes.lower.qdq import Static, static_of
from qcompile.passes.rewrite import NodePass


class MoveShapeBeforeDequantize(NodePass):
    """Shape and Size."""

    stage = "lower"
    op_types = ("Shape", "Size")

    def match(self, node: ir.Node) -> Static | None:
        """The codes."""
        return static_of(node.inputs[0])

    def rewrite(self, node: ir.Node, found: Static) -> None:
        """Read them instead."""
        node.replace_input_with(0, found.codes)
