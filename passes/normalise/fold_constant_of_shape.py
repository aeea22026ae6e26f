# SPDX-License-Identifier: Apache-2.0
"""Fold a large ConstantOfShape into an initializer, which is filled when it is read.

Before:
    f (float[2] x) => (float[2] y)
    <int64[1] s = {2}>
    { c = ConstantOfShape (s)   y = Add (x, c) }
After:
    f (float[2] x) => (float[2] y)
    <float[2] c_value = {0, 0}>
    { y = Add (x, c_value) }
Refuses: a shape that is computed at run time; a graph output.

fold_constants has folded the small ones.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, constant
from qcompile.passes.normalise.rewiring import EAGER_BYTES, graph_of
from qcompile.passes.rewrite import NodePass


class FoldConstantOfShape(NodePass):
    """Models without weights of their own, as the onnx package has, make theirs so."""

    stage = "normalise"
    op_types = ("ConstantOfShape",)

    def match(self, node: ir.Node) -> tuple[int, ...] | str | None:
        """The shape, or why the node stays."""
        shape = constant(node.inputs[0])
        if shape is None:
            return "its shape is computed at run time"
        if node.outputs[0].is_graph_output():
            return "it is an output of the model"
        return tuple(int(d) for d in shape)

    def rewrite(self, node: ir.Node, found: tuple[int, ...]) -> None:
        """An initializer for the output."""
        out, value = node.outputs[0], attribute(node, "value")
        fill = np.zeros(1, np.float32) if value is None else np.asarray(value.numpy())

        def compute() -> ir.TensorProtocol:
            return ir.tensor(np.full(found, fill.reshape(-1)[0], fill.dtype))

        dtype = ir.DataType.from_numpy(fill.dtype)
        is_small = int(np.prod(found)) * fill.itemsize <= EAGER_BYTES
        made = compute() if is_small else ir.LazyTensor(compute, dtype, ir.Shape(found))
        out.replace_all_uses_with(add_initializer(graph_of(node), f"{out.name}_value", made))
        graph_of(node).remove(node, safe=True)
