# SPDX-License-Identifier: Apache-2.0
"""Remove identities, dead nodes, dead initializers, dead functions and unused opset imports.

Before:
    f (float[2] x) => (float[2] y)
    <float[2] a = {1, 2}>
    { c = Identity (x)   d = Neg (x)   y = Relu (c) }
After:
    f (float[2] x) => (float[2] y) { y = Relu (x) }
Refuses: an Identity to a graph output from a graph input, a constant or another graph output.
"""

import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.graph import is_op, replace


class RemoveUnused(ir.passes.InPlacePass):
    """Identities, then onnx_ir's own passes, in an order that leaves nothing behind."""

    stage = "normalise"
    name = "remove_unused"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run them once each."""
        identities = [_remove_identity(n) for n in list(model.graph) if is_op(n, "Identity")]
        passes = (
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
        )
        results = [each(model) for each in passes]
        modified = any(identities) or any(r.modified for r in results)
        return ir.passes.PassResult(model, modified)


def _remove_identity(node: ir.Node) -> bool:
    """onnx_ir's own pass loses a graph output whose value has an Identity to a second one."""
    source, out, graph = node.inputs[0], node.outputs[0], node.graph
    assert source is not None and isinstance(graph, ir.Graph)
    if out.is_graph_output():
        if source.producer() is None or source.is_graph_output():
            return False
        replace(out, source)
    else:
        out.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True
