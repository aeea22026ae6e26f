# SPDX-License-Identifier: Apache-2.0
"""Fold a weight in codes that ONNX Runtime cannot decode into the floats that it means.

Before:
    { w = DequantizeLinear (w_codes, w_scale)   y = Conv (x, w) }
After:
    { w = Identity (w_decoded)   y = Conv (x, w) }
Refuses: codes that ONNX Runtime decodes itself.

These are weights of the user's model in ONNX's 4-, 6- and 8-bit floats whose product has no kernel
here, and so stays as it is in the model: in floats, for nothing else runs it.
"""

import onnx_ir as ir

from qcompile.decoded_copy import lacks_kernel, put_floats
from qcompile.passes.rewrite import NodePass


class FoldCodesIntoFloats(NodePass):
    """Behind the passes that take weights in codes for kernels."""

    stage = "transform"
    op_types = ("DequantizeLinear",)

    def __init__(self) -> None:
        super().__init__()
        self.opset = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Which kernels there are depends on the opset."""
        self.opset = model.graph.opset_imports.get("", 0)
        return super().call(model)

    def match(self, node: ir.Node) -> bool | None:
        """Whether something still reads it."""
        return True if lacks_kernel(node, self.opset) and node.outputs[0].uses() else None

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """Decoded when the artifact is written."""
        put_floats(node)
