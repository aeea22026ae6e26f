# SPDX-License-Identifier: Apache-2.0
"""Fuse TensorFlow's batch_normalization of moments into the chain of a LayerNormalization.

Before:
    f (float[2,4] i) => (float[2,4] y)
    <float e = {4}, float[4] g = {1, 2, 1, 2}, float[4] b = {1, 0, 1, 0}>
    { x = Clip (i, e, e)   m = ReduceMean <axes = [-1]> (x)   d = Sub (x, m)   s = Mul (d, d)
      v = ReduceMean <axes = [-1]> (s)   t = Add (v, e)   r = Sqrt (t)   h = Div (g, r)
      p = Mul (x, h)   q = Mul (m, h)   u = Sub (b, q)   y = Add (p, u) }
After:
    f (float[2,4] i) => (float[2,4] y)
    <float e = {4}, float[4] g = {1, 2, 1, 2}, float[4] b = {1, 0, 1, 0}, float s_two = {2}>
    { x = Clip (i, e, e)   m = ReduceMean <axes = [-1]> (x)   d = Sub (x, m)   s = Pow (d, s_two)
      v = ReduceMean <axes = [-1]> (s)   t = Add (v, e)   r = Sqrt (t)
      y_ratio = Div (d, r)   y_scaled = Mul (y_ratio, g)   y = Add (y_scaled, b) }
Refuses: a mean of something else than what is scaled.

x · (γ/σ) + (β − μ · (γ/σ)) is (x − μ)/σ · γ + β, which needs two passes less over x, and which ONNX
Runtime fuses into one node. A reciprocal times γ has become the division before.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, is_op, new_node, replace
from qcompile.passes.normalise.rewiring import graph_of
from qcompile.passes.rewrite import NodePass

# x − μ, √(σ² + ε), γ, β, and the node that squares x − μ
Parts = tuple[ir.Value, ir.Value, ir.Value, ir.Value, ir.Node]


class FuseMomentsIntoLayerNorm(NodePass):
    """Keras LayerNormalization by tf2onnx."""

    stage = "normalise"
    op_types = ("Add",)

    def match(self, node: ir.Node) -> Parts | str | None:
        """The parts of the chain, or why the sum stays."""
        for scaled, rest in (node.inputs, node.inputs[::-1]):
            product, shift = _producer(scaled, "Mul"), _producer(rest, "Sub")
            centre = _producer(shift.inputs[1], "Mul") if shift is not None else None
            if product is None or shift is None or centre is None or shift.inputs[0] is None:
                continue
            shared = [v for v in product.inputs if v is not None and v in centre.inputs]
            factor = _producer(shared[0], "Div") if shared else None
            root = _producer(factor.inputs[1], "Sqrt") if factor is not None else None
            if factor is None or root is None or factor.inputs[0] is None:
                continue
            source, mean = (
                next((v for v in each.inputs if v is not shared[0]), None)
                for each in (product, centre)
            )
            square = _square_of(root)
            found = square.inputs[0] if square is not None else None
            difference = _producer(found, "Sub")
            if square is None or found is None or difference is None:
                return "its deviation is not that of moments"
            if tuple(difference.inputs) != (source, mean):
                return "its mean is that of something else"
            return found, root.outputs[0], factor.inputs[0], shift.inputs[0], square
        return None

    def rewrite(self, node: ir.Node, found: Parts) -> None:
        """Div, Mul, Add in place of two products, a difference and a sum."""
        difference, root, gamma, beta, square = found
        graph, out = graph_of(node), node.outputs[0]
        if is_op(square, "Mul"):  # ONNX Runtime knows the square of a LayerNormalization by Pow
            two = add_initializer(graph, f"{square.outputs[0].name}_two", np.array(2, np.float32))
            square.op_type = "Pow"
            square.replace_input_with(1, two)
        name, dtype, made = out.name or "", out.dtype or ir.DataType.FLOAT, difference
        for op_type, other, part in (
            ("Div", root, "ratio"),
            ("Mul", gamma, "scaled"),
            ("Add", beta, "shifted"),
        ):
            label = f"{name}_{part}"
            each = new_node(
                op_type, [made, other], f"{node.name}/{part}", label, dtype=dtype, shape=out.shape
            )
            graph.insert_before(node, each)
            made = each.outputs[0]
        replace(out, made)
        graph.remove(node, safe=True)
        made.name = name


def _square_of(root: ir.Node) -> ir.Node | None:
    """The square whose mean, plus a number, the root is of."""
    total = _producer(root.inputs[0], "Add")
    means = [_producer(v, "ReduceMean") for v in total.inputs] if total is not None else []
    mean = next((m for m in means if m is not None), None)
    square = _producer(mean.inputs[0], "Mul", "Pow") if mean is not None else None
    if square is None or (is_op(square, "Mul") and square.inputs[0] is not square.inputs[1]):
        return None
    return square


def _producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, *op_types) else None
