# SPDX-License-Identifier: Apache-2.0
"""Fold a product or sum with a constant by output into a Conv or Gemm whose weight is in codes.

Before:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <int8[1,1,1,1] q = {4}, float s = {0.5}, float[1,1,1] f = {2}, float[1,1,1] b = {1}>
    { w = DequantizeLinear (q, s)   c = Conv (x, w)   d = Div (c, f)   y = Add (d, b) }
After:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <int8[1,1,1,1] q = {4}, float[1] w_scale = {0.25}, float[1] c_bias = {1}>
    { w = DequantizeLinear <axis = 0> (q, w_scale)   y = Conv (x, w, c_bias) }
Refuses: another reader between the two, or of the weight; a constant that is not one number or one
an output; a constant minus or divided by the product; a factor of 0; one below 0 for codes with
zero points or of −128; a bias in codes.

Training that knows of quantization writes this: codes of w · γ / σ, and behind the Conv the
division by γ / σ and the BatchNormalization. The codes stay; (code · s) · f is code · (s · f) but
for one rounding.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    only_consumer,
    replace,
)
from qcompile.passes.normalise.channel_statistics import drop, move
from qcompile.passes.normalise.rewiring import by_output, dims, graph_of, sole_source
from qcompile.passes.rewrite import NodePass
from qcompile.products import is_mask

_FACTORS = ("Mul", "Div")


@dataclass(frozen=True)
class Affine:
    """y = factor · product + shift, both float64 [N]: all of the nodes, in order, at once.

    A factor below 0 is often taken back by the next one. back: what dequantizes the weight.
    """

    product: ir.Node
    back: ir.Node
    nodes: tuple[ir.Node, ...]
    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


class FoldAffineIntoCodedProduct(NodePass):
    """Mul, Div, Add and Sub behind Conv, and Gemm with transB."""

    stage = "normalise"
    op_types = ("Conv", "Gemm")

    def match(self, node: ir.Node) -> Affine | str | None:
        """What is folded, or why it stays."""
        back = _coded_weight(node)
        if back is None:
            return None
        n = dims(back.inputs[0])[0]
        found = Affine(node, back, (), np.ones(n), np.zeros(n))
        reason = None
        while reason is None:
            more = _next(found)
            if isinstance(more, Affine):
                found = more
            else:
                reason = more or ""
        if not found.nodes:
            return reason or None
        bias = input_of(node, 2)
        if bias is not None and not is_constant(bias):
            return "its bias is in codes"
        if not found.factor.all():
            return "a factor of 0"
        if (found.factor < 0).any() and not _can_be_negated(back):
            return "a factor below 0 of codes that have no opposite"
        return found

    def rewrite(self, node: ir.Node, found: Affine) -> None:
        """Scales and bias anew; the other nodes go."""
        graph, end, last = graph_of(node), node.outputs[0], found.nodes[-1].outputs[0]
        if (found.factor != 1).any():
            _scale(graph, found)
        bias = constant(input_of(node, 2))
        old = np.zeros(len(found.factor)) if bias is None else bias.astype(np.float64)
        made = (old * found.factor + found.shift).astype(np.float32)
        if made.any() or bias is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, add_initializer(graph, f"{end.name}_bias", made))
        drop(end)
        move(last, end)
        end.shape = last.shape
        replace(last, end)
        for each in reversed(found.nodes):
            graph.remove(each, safe=True)


def _next(found: Affine) -> Affine | str | None:
    """With the op behind it, too; a reason, or None where there is none."""
    value = (found.nodes[-1] if found.nodes else found.product).outputs[0]
    node = only_consumer(value)
    if node is None:
        is_read = any(_is_affine(use.node) for use in value.uses())
        return f"{value.name} has another reader" if is_read else None
    if not _is_affine(node):
        return None
    at = 0 if is_constant(node.inputs[0]) else 1
    if at == 0 and node.op_type in ("Sub", "Div"):
        return f"{node.op_type} of a constant by the product"
    size, given = dims(found.back.inputs[0]), node.inputs[at]
    channel = 1 - len(size) if is_op(found.product, "Conv") else -1
    is_number = given is not None and not is_mask(given)
    vector = by_output(given, size[0], channel, len(size)) if is_number else None
    if vector is None:
        return "its constant is not one number or one an output"
    if node.op_type == "Div" and not vector.all():
        return "Div by 0"
    factor, shift = found.factor, found.shift
    if node.op_type in _FACTORS:
        times = vector if node.op_type == "Mul" else 1 / vector
        factor, shift = factor * times, shift * times
    else:
        shift = shift + (vector if node.op_type == "Add" else -vector)
    return Affine(found.product, found.back, (*found.nodes, node), factor, shift)


def _is_affine(node: ir.Node) -> bool:
    return is_op(node, *_FACTORS, "Add", "Sub") and any(is_constant(v) for v in node.inputs)


def _coded_weight(node: ir.Node) -> ir.Node | None:
    """What dequantizes the weight of a Conv or Gemm, by output or as a whole, for it alone."""
    if is_op(node, "Gemm") and (
        not attribute(node, "transB", 0) or attribute(node, "beta", 1.0) != 1.0
    ):
        return None
    value = node.inputs[1]
    back = sole_source(value, "DequantizeLinear")
    if back is None or not all(is_constant(v) for v in back.inputs if v is not None):
        return None
    scale = constant(back.inputs[1])
    by_output = scale is not None and (
        scale.size == 1 or (scale.ndim == 1 and attribute(back, "axis", 1) == 0)
    )
    return back if by_output and attribute(back, "block_size", 0) == 0 else None


def _can_be_negated(back: ir.Node) -> bool:
    codes, point = constant(back.inputs[0]), constant(input_of(back, 2))
    assert codes is not None
    is_centred = point is None or not point.any()
    return codes.dtype == np.int8 and is_centred and int(codes.min(initial=0)) > -128


def _scale(graph: ir.Graph, found: Affine) -> None:
    """Scales times |factor|, of one an output; codes of a negative one change their sign."""
    back, name = found.back, found.back.outputs[0].name
    codes, scale = constant(back.inputs[0]), constant(back.inputs[1])
    point = input_of(back, 2)
    assert codes is not None and scale is not None
    n = len(found.factor)
    made = np.broadcast_to(scale.astype(np.float64).reshape(-1), (n,)) * np.abs(found.factor)
    back.replace_input_with(1, add_initializer(graph, f"{name}_scale", made.astype(np.float32)))
    if point is not None and (old := constant(point)) is not None and old.size != n:
        spread = np.broadcast_to(old.reshape(-1), (n,)).copy()
        back.replace_input_with(2, add_initializer(graph, f"{name}_zero_point", spread))
    back.attributes["axis"] = ir.AttrInt64("axis", 0)
    if (found.factor < 0).any():
        signs = np.where(found.factor < 0, -1, 1).astype(np.int8)
        turned = codes * signs.reshape(-1, *[1] * (codes.ndim - 1))
        back.replace_input_with(0, add_initializer(graph, f"{name}_codes", turned))
