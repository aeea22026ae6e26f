# SPDX-License-Identifier: Apache-2.0
"""Fold what casts, turns or reshapes a large constant into the constant, which is read anew.

Before:
    f (float[1,2] x) => (float[1,1] y)
    <float[1,2] w = {1, 2}, int64[2] s = {2, 1}>
    { r = Reshape (w, s)   y = MatMul (x, r) }
After:
    f (float[1,2] x) => (float[1,1] y)
    <float[2,1] r_value = {1, 2}>
    { y = MatMul (x, r_value) }
Refuses: a graph output; an output whose shape is not known; integers; a Transpose for MatMul.

fold_constants has folded the small ones. A weight that a product reads through a Transpose stands
as [N, K] already.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, attribute, is_constant, is_op, static_shape
from qcompile.passes.normalise.rewiring import EAGER_BYTES, graph_of
from qcompile.passes.rewrite import NodePass

Change = Callable[[NDArray], NDArray]


class FoldDataOpIntoWeight(NodePass):
    """Cast, Transpose, and ops that give another shape."""

    stage = "normalise"
    op_types = ("Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")

    def match(self, node: ir.Node) -> Change | str | None:
        """How the constant changes, or why it stays."""
        source, out = node.inputs[0], node.outputs[0]
        if not is_constant(source) or not all(map(is_constant, node.inputs[1:])):
            return None
        if source is None or source.dtype is None or not source.dtype.is_floating_point():
            return None
        shape, dtype = static_shape(out), out.dtype
        if out.is_graph_output():
            return "it is an output of the model"
        if shape is None or dtype is None or not dtype.is_floating_point():
            return "the shape of its output is not known, or it is no float"
        readers = [use.node for use in out.uses()]
        if node.op_type != "Transpose":
            return lambda w: w.astype(dtype.numpy()).reshape(shape)
        perm = attribute(node, "perm", None)
        if len(shape) == 2 and readers and all(is_op(n, "MatMul") for n in readers):
            return None
        return lambda w: np.transpose(w, perm)

    def rewrite(self, node: ir.Node, found: Change) -> None:
        """An initializer for the output."""
        source, out, graph = node.inputs[0], node.outputs[0], graph_of(node)
        tensor, shape, dtype = source.const_value if source else None, out.shape, out.dtype
        assert tensor is not None and shape is not None and dtype is not None
        held, kind = tensor, dtype

        def compute() -> ir.TensorProtocol:
            return ir.tensor(np.ascontiguousarray(found(held.numpy())), dtype=kind)

        is_small = held.nbytes <= EAGER_BYTES
        made = compute() if is_small else ir.LazyTensor(compute, kind, shape)
        out.replace_all_uses_with(add_initializer(graph, f"{out.name}_value", made))
        graph.remove(node, safe=True)
