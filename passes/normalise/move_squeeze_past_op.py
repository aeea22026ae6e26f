# SPDX-License-Identifier: Apache-2.0
"""Move the Squeeze of a height of 1 past ops that work by element, and remove it at an Unsqueeze.

Before:
    f (float[1,1,1,4] x) => (float[1,1,1,4] y)
    <int64[1] h = {2}>
    { s = Squeeze (x, h)   r = Relu (s)   y = Unsqueeze (r, h) }
After:
    f (float[1,1,1,4] x) => (float[1,1,1,4] y)
    { y = Relu (x) }
Refuses: an operand that has no such Squeeze and is not constant; a Concat over the last axis.

So that a chain of 1-D convolutions is one chain of 2-D ones (insert_height_into_conv), in which a
convolution, its bias and its Relu follow each other.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import constant, derived_initializer, input_of, is_constant, is_op, rank
from qcompile.passes.normalise.channel_statistics import copy
from qcompile.passes.normalise.insert_height_into_conv import raised
from qcompile.passes.normalise.rewiring import append, give, graph_of, integers
from qcompile.passes.rewrite import NodePass

_UNARY = (
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu"),
    *("Gelu", "Mish", "Softplus", "Softsign", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs"),
)
_BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")


class MoveSqueezePastOp(NodePass):
    """Squeeze of axis 2 of four dimensions."""

    stage = "normalise"
    op_types = (*_UNARY, *_BINARY, "Concat", "Unsqueeze")

    def match(self, node: ir.Node) -> list[ir.Value | None] | str | None:
        """What the node reads instead, or why it cannot."""
        sources = [squeezed(v) for v in node.inputs]
        if not any(s is not None for s in sources):
            return None
        if node.op_type == "Unsqueeze":
            return sources[:1] if is_height(input_of(node, 1), 4) else None
        if node.op_type in _UNARY:
            return [sources[0], *node.inputs[1:]] if sources[0] is not None else None
        if node.op_type == "Concat" and node.attributes["axis"].value not in (1, -2):
            return "it joins another axis than the channels"
        for i, value in enumerate(node.inputs):
            if sources[i] is not None:
                continue
            if not is_constant(value) or node.op_type == "Concat":
                return f"{value.name if value is not None else ''} has no Squeeze"
            if (rank(value) or 0) > 3:
                return f"{value.name if value is not None else ''} has more than 3 dimensions"
            sources[i] = value if (rank(value) or 0) < 2 else _raise_constant(node, value)
        return sources

    def rewrite(self, node: ir.Node, found: list[ir.Value | None]) -> None:
        """The node on four dimensions, and the Squeeze after it."""
        if node.op_type == "Unsqueeze":
            self._remove(node, found[0])
            return
        for i, value in enumerate(found):
            node.replace_input_with(i, value)
        if node.op_type == "Concat":
            node.attributes["axis"] = ir.AttrInt64("axis", 1)
        axes = integers(node, "height", [2])
        flat = append(node, "Squeeze", axes, suffix="high", shape=raised(node.outputs[0]))
        copy(flat.outputs[0], node.outputs[0])

    def _remove(self, node: ir.Node, source: ir.Value | None) -> None:
        """Readers of the Unsqueeze read what was squeezed; a graph output keeps its name."""
        assert source is not None
        old = node.outputs[0]
        if not old.is_graph_output():
            old.replace_all_uses_with(source)
        elif source.producer() is not None and not source.is_graph_output():
            give(old, source)
        else:
            return
        graph_of(node).remove(node, safe=True)


def squeezed(value: ir.Value | None) -> ir.Value | None:
    """What the Squeeze of a height reads, where one gives the value."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "Squeeze") or rank(node.inputs[0]) != 4:
        return None
    return node.inputs[0] if is_height(input_of(node, 1), 4) else None


def is_height(axes: ir.Value | None, num_axes: int) -> bool:
    """Whether the axes are the one before the last."""
    array = constant(axes)
    return array is not None and [int(a) % num_axes for a in array.ravel()] == [num_axes - 2]


def _raise_constant(node: ir.Node, value: ir.Value | None) -> ir.Value:
    array = constant(value)
    assert value is not None and array is not None
    size = (*array.shape[:-1], 1, array.shape[-1])
    made = ir.tensor(np.ascontiguousarray(array.reshape(size)))
    return derived_initializer(graph_of(node), value, "_high", lambda: made)
