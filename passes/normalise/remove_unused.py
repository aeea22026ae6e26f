# SPDX-License-Identifier: Apache-2.0
"""Remove identities, dead nodes, dead initializers, dead functions and unused opset imports.

Before:
    f (float[2] x) => (float[2] y)
    <float[2] a = {1, 2}>
    { c = Identity (x)   d = Neg (x)   y = Relu (c) }
After:
    f (float[2] x) => (float[2] y) { y = Relu (x) }
Refuses: an Identity between a graph input and a graph output.
"""

import onnx_ir as ir
import onnx_ir.passes.common as common


class RemoveUnused(ir.passes.InPlacePass):
    """onnx_ir's own passes, in an order that leaves nothing behind."""

    stage = "normalise"
    name = "remove_unused"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run them once each."""
        passes = (
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
        )
        results = [each(model) for each in passes]
        return ir.passes.PassResult(model, any(r.modified for r in results))
