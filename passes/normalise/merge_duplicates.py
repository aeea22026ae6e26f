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
Refuses: nodes of a graph with a type among its attributes; tensors are compared by dtype, shape and
bytes.

Weights stand as [N, K] here (move_transpose_out_of_weight), so an embedding and the head that is
its transpose are equal.
"""

import hashlib
from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common

_ROWS_BYTES = 8 << 20
_TYPES = (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS)


def digest(tensor: ir.TensorProtocol) -> bytes:
    """sha256 of the tensor's bytes, read a few rows at a time."""
    array, found = tensor.numpy(), hashlib.sha256()
    if not array.ndim or not array.size:
        return hashlib.sha256(tensor.tobytes()).digest()
    step = max(1, _ROWS_BYTES // (array.nbytes // len(array)))
    for first in range(0, len(array), step):
        found.update(array[first : first + step].tobytes())
    return found.digest()


def sample(tensor: ir.TensorProtocol) -> bytes:
    """The bytes of the first and the middle row: most tensors differ there already."""
    array = tensor.numpy()
    rows = (array[:1], array[len(array) // 2 :][:1]) if array.ndim else (array,)
    return b"".join(row.tobytes() for row in rows)


class MergeDuplicates(ir.passes.InPlacePass):
    """Initializers by hash, then common subexpressions."""

    stage = "normalise"
    name = "merge_duplicates"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Keep the first of equal initializers."""
        modified = False
        graph = model.graph
        alike: dict[tuple, list[ir.Value]] = {}
        shapes = Counter((v.dtype, str(v.shape)) for v in graph.initializers.values())
        for value in graph.initializers.values():
            if value.const_value is None or value.is_graph_output() or value.is_graph_input():
                continue
            kind = (value.dtype, str(value.shape))
            if shapes[kind] == 1:  # a sample of a lazy tensor computes all of it
                continue
            key = (*kind, sample(value.const_value))
            alike.setdefault(key, []).append(value)
        for group in (each for each in alike.values() if len(each) > 1):
            first: dict[bytes, ir.Value] = {}
            for value in group:
                assert value.const_value is not None
                kept = first.setdefault(digest(value.const_value), value)
                if kept is not value:
                    value.replace_all_uses_with(kept)
                    del graph.initializers[value.name or ""]
                    modified = True
        if any(a.type in _TYPES for n in graph.all_nodes() for a in n.attributes.values()):
            return ir.passes.PassResult(model, modified)  # onnx_ir cannot compare types (1.1)
        merged = common.CommonSubexpressionEliminationPass()(model)
        return ir.passes.PassResult(model, modified or merged.modified)
