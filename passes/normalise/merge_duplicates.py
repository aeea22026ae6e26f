# SPDX-License-Identifier: Apache-2.0
"""Merge equal initializers and equal nodes.

Before:
    f (float[2] x) => (float[2] y)
    <float[2] a = {1, 2}, float[2] b = {1, 2}>
    { c = Add (x, a)   y = Add (c, b) }
After:
    f (float[2] x) => (float[2] y)
    <float[2] a = {1, 2}>
    { c = Add (x, a)   y = Add (c, a) }
Refuses: nothing; tensors are compared by dtype, shape and bytes.

Weights stand as [N, K] here (move_transpose_out_of_weight), so an embedding and the head that is
its transpose are equal.
"""

import hashlib

import onnx_ir as ir
import onnx_ir.passes.common as common


def digest(tensor: ir.TensorProtocol) -> bytes:
    """sha256 of the tensor's bytes; one tensor is in memory at a time."""
    return hashlib.sha256(tensor.tobytes()).digest()


class MergeDuplicates(ir.passes.InPlacePass):
    """Initializers by hash, then common subexpressions."""

    stage = "normalise"
    name = "merge_duplicates"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Keep the first of equal initializers."""
        modified = False
        first: dict[tuple, ir.Value] = {}
        by_shape: dict[tuple, int] = {}
        graph = model.graph
        for value in graph.initializers.values():
            key = (value.dtype, str(value.shape))
            by_shape[key] = by_shape.get(key, 0) + 1
        for value in list(graph.initializers.values()):
            tensor, key = value.const_value, (value.dtype, str(value.shape))
            if tensor is None or by_shape[key] == 1 or value.is_graph_output():
                continue
            if value.is_graph_input():
                continue
            kept = first.setdefault((*key, digest(tensor)), value)
            if kept is not value:
                value.replace_all_uses_with(kept)
                del graph.initializers[value.name or ""]
                modified = True
        merged = common.CommonSubexpressionEliminationPass()(model)
        return ir.passes.PassResult(model, modified or merged.modified)
