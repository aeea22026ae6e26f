# SPDX-License-Identifier: Apache-2.0
"""Fold a product or sum with a constant by channel into the convolution that alone reads it.

Before:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w = {2}, float s = {4}, float[1,1,1] b = {1}>
    { d = Sub (x, b)   c = Div (d, s)   y = Conv (c, w) }
After:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w_folded = {0.5}, float[1] y_bias = {-0.5}>
    { y = Conv (x, w_folded, y_bias) }
Refuses: another reader; a constant that varies over the image; a sum before a convolution with
padding, whose zeros would have to become another number; a constant divided by the input; a
division by 0; a weight or bias that is not constant; a factor for a weight that others read.

W'[n, c] = W[n, c] · γ[c], b'[n] = b[n] + Σ W[n, c] · β[c].
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, attribute, constant, input_of, is_constant
from qcompile.passes.normalise.rewiring import changed, dims, graph_of, sole_source
from qcompile.passes.rewrite import NodePass

Found = tuple[ir.Node, int, NDArray]  # the node before, its constant input, the constant [C]


class FoldAffineIntoNextConv(NodePass):
    """Mul, Div, Add and Sub, the nearest first."""

    stage = "normalise"
    op_types = ("Conv",)

    def match(self, node: ir.Node) -> Found | str | None:
        """The op before the convolution, or why it stays."""
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        if source is None or before is None or before.op_type not in ("Mul", "Div", "Add", "Sub"):
            return None
        at = next((i for i, v in enumerate(before.inputs) if is_constant(v)), None)
        if at is None:
            return None
        if sole_source(source, before.op_type) is None:
            return f"{source.name} has another reader"
        if not is_constant(node.inputs[1]) or not all(map(is_constant, node.inputs[2:3])):
            return "its weight or bias is not constant"
        array = self._by_channel(node, before, at)
        if isinstance(array, str):
            return array
        is_sum, weight = before.op_type in ("Add", "Sub"), node.inputs[1]
        mode = attribute(node, "auto_pad", "NOTSET")
        if is_sum and (any(attribute(node, "pads", ())) or mode not in ("NOTSET", "VALID")):
            return "its sum is padded with zeros"
        if not is_sum and weight is not None and len(list(weight.uses())) > 1:
            return f"{weight.name} has another reader"
        return before, at, array

    def _by_channel(self, node: ir.Node, before: ir.Node, at: int) -> NDArray | str:
        size, array = dims(node.inputs[1]), constant(before.inputs[at])
        channels = size[1] * int(attribute(node, "group", 1))
        assert array is not None
        if before.op_type == "Div" and (at == 0 or not array.all()):
            return "it divides a constant, or by 0"
        axis = array.ndim - len(size) + 1
        varies = any(s != 1 for i, s in enumerate(array.shape) if i != axis)
        if array.ndim > len(size) or varies or array.size not in (1, channels):
            return "its constant is not one number or one a channel"
        if array.dtype.kind != "f":
            return "its constant is no float"
        return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))

    def rewrite(self, node: ir.Node, found: Found) -> None:
        """Fold one op, then the one before it."""
        before, at, array = found
        if before.op_type in ("Mul", "Div"):
            _scale(node, 1 / array if before.op_type == "Div" else array)
        elif before.op_type == "Sub" and at == 0:  # c − x: the sign of x, then the sum
            _shift(node, array)
            _scale(node, -np.ones_like(array))
        else:
            _shift(node, array if before.op_type == "Add" else -array)
        node.replace_input_with(0, before.inputs[1 - at])
        graph_of(before).remove(before, safe=True)
        again = self.match(node)
        if isinstance(again, tuple):
            self.rewrite(node, again)


def _by_group(node: ir.Node, array: NDArray) -> NDArray:
    """One value a channel as [N, C/g], for every output its own group's."""
    n, per_group = dims(node.inputs[1])[:2]
    group = int(attribute(node, "group", 1))
    return np.repeat(array.reshape(group, per_group), n // group, axis=0)


def _scale(node: ir.Node, factor: NDArray) -> None:
    weight = node.inputs[1]
    assert weight is not None
    size, wide = dims(weight), _by_group(node, factor)

    def scale(w: NDArray) -> NDArray:
        return w * wide.astype(w.dtype).reshape(*size[:2], *[1] * (len(size) - 2))

    made = changed(weight, size, scale)
    node.replace_input_with(1, add_initializer(graph_of(node), f"{weight.name}_folded", made))


def _shift(node: ir.Node, shift: NDArray) -> None:
    weight, bias = constant(node.inputs[1]), constant(input_of(node, 2))
    assert weight is not None
    taps = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum(axis=2)
    old = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    made = (old + (taps * _by_group(node, shift)).sum(axis=1)).astype(weight.dtype)
    node.resize_inputs(3)
    name = f"{node.outputs[0].name}_bias"
    node.replace_input_with(2, add_initializer(graph_of(node), name, made))
