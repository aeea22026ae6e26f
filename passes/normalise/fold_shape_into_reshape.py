# SPDX-License-Identifier: Apache-2.0
"""Fold a shape that is computed from the input's own shape into Reshape's 0, "as in the input".

Before:
    f (float[N,2,3] x) => (float[N,6] y)
    <int64 i = {0}, int64[1] zero = {0}, int64[1] six = {6}>
    { s = Shape (x)  n = Gather (s, i)  u = Unsqueeze (n, zero)
      t = Concat <axis = 0> (u, six)  y = Reshape (x, t) }
After:
    f (float[N,2,3] x) => (float[N,6] y) <int64[2] y_shape = {0, 6}> { y = Reshape (x, y_shape) }
Refuses: a size that is not the input's own in that place; allowzero.

Exporters write such chains at every reshape of attention; on small models they cost more than the
products.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, constant, input_of, is_op
from qcompile.passes.rewrite import NodePass

Dim = int | str


class FoldShapeIntoReshape(NodePass):
    """Sizes are compared by value, or by the name that shape inference gave them."""

    stage = "normalise"
    op_types = ("Reshape",)

    def match(self, node: ir.Node) -> list[int] | str | None:
        """The constant shape, or why there is none."""
        x, target = node.inputs[0], node.inputs[1]
        if x is None or target is None or constant(target) is not None:
            return None
        if attribute(node, "allowzero", 0):
            return "allowzero"
        wanted = sizes_of(target)
        if wanted is None or x.shape is None:
            return "its shape is not computed from shapes"
        own = dims_of(x)
        shape: list[int] = []
        for i, size in enumerate(wanted):
            if isinstance(size, int):
                shape.append(size)
            elif i < len(own) and own[i] == size:
                shape.append(0)
            else:
                return f"size {i} is not the input's own size {i}"
        return shape

    def rewrite(self, node: ir.Node, found: list[int]) -> None:
        """The constant in its place; what computed it dies."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        shape = np.array(found, np.int64)
        name = f"{node.outputs[0].name}_shape"
        node.replace_input_with(1, add_initializer(graph, name, shape))


def dims_of(value: ir.Value) -> list[Dim | None]:
    """Sizes and names of a value's dimensions; None where neither is known."""
    assert value.shape is not None
    return [d if isinstance(d, int) else d.value for d in value.shape]


def sizes_of(value: ir.Value | None) -> list[Dim] | None:
    """Elements of a tensor made of constants and of sizes of values; None where one is neither."""
    known = constant(value)
    if known is not None:
        return [int(v) for v in known.ravel()] if known.dtype.kind == "i" else None
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if is_op(node, "Unsqueeze", "Cast", "Identity"):
        return sizes_of(node.inputs[0])
    if is_op(node, "Concat"):
        parts = [sizes_of(v) for v in node.inputs]
        return None if any(p is None for p in parts) else [d for p in parts for d in p or ()]
    if is_op(node, "Shape"):
        return _shape(node)
    if is_op(node, "Gather"):
        return _gathered(node)
    return _sliced(node) if is_op(node, "Slice") else None


def _shape(node: ir.Node) -> list[Dim] | None:
    source = node.inputs[0]
    if (
        source is None
        or source.shape is None
        or "start" in node.attributes
        or "end" in node.attributes
    ):
        return None
    dims = dims_of(source)
    known = [d for d in dims if d is not None]
    return known if len(known) == len(dims) else None


def _gathered(node: ir.Node) -> list[Dim] | None:
    sizes, index = sizes_of(node.inputs[0]), constant(node.inputs[1])
    if sizes is None or index is None or index.size != 1:
        return None
    at = int(index.ravel()[0])
    return [sizes[at]] if -len(sizes) <= at < len(sizes) else None


def _sliced(node: ir.Node) -> list[Dim] | None:
    sizes = sizes_of(node.inputs[0])
    start, end, step = (constant(input_of(node, i)) for i in (1, 2, 4))
    if (
        sizes is None
        or start is None
        or end is None
        or (step is not None and int(step.ravel()[0]) != 1)
    ):
        return None
    return sizes[int(start.ravel()[0]) : int(end.ravel()[0])]
