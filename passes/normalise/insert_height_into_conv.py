# SPDX-License-Identifier: Apache-2.0
"""Insert a height of 1 into a 1-D convolution or pool, which makes it 2-D.

Before:
    f (float[1,1,4] x) => (float[1,1,2] y)
    <float[1,1,3] w = {1, 2, 3}>
    { y = Conv (x, w) }
After:
    f (float[1,1,4] x) => (float[1,1,2] y)
    <float[1,1,1,3] w_high = {1, 2, 3}, int64[1] y_height = {2}>
    { y_x = Unsqueeze (x, y_height)   y_high = Conv (y_x, w_high)   y = Squeeze (y_high, y_height) }
Refuses: a convolution whose weight is not constant; a pool whose indices are read.

Between two of them move_squeeze_past_op leaves neither Squeeze nor Unsqueeze.
"""

import onnx_ir as ir

from qcompile.graph import attribute, is_constant, rank
from qcompile.passes.normalise.channel_statistics import copy
from qcompile.passes.normalise.rewiring import append, derived, dims, integers, prepend
from qcompile.passes.rewrite import NodePass

_DEFAULTS = {"kernel_shape": [1], "strides": [1], "dilations": [1], "pads": [0, 0]}


class InsertHeightIntoConv(NodePass):
    """Conv by its weight's rank, pools by their input's."""

    stage = "normalise"
    op_types = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")

    def match(self, node: ir.Node) -> bool | str | None:
        """True, or why the node stays 1-D."""
        if node.op_type == "Conv" and not is_constant(node.inputs[1]):
            return "its weight is not constant" if rank(node.inputs[0]) == 3 else None
        known = len(dims(node.inputs[1])) if node.op_type == "Conv" else rank(node.inputs[0])
        if known != 3:
            return None
        if len(node.outputs) > 1 and node.outputs[1].uses():
            return "its indices are read"
        return True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """Attributes and weight get the height; Unsqueeze and Squeeze round the node."""
        if node.op_type == "Conv":
            weight = node.inputs[1]
            n, c, k = size = dims(weight)
            assert weight is not None
            high = derived(node, weight, "_high", (n, c, 1, k), lambda w: w.reshape(n, c, 1, k))
            node.replace_input_with(1, high)
            assert len(size) == 3
        for name, default in _DEFAULTS.items():
            values = attribute(node, name)
            if values is not None:
                half = len(default)
                wide = [v for i in range(half) for v in (default[0], values[i])]
                node.attributes[name] = ir.AttrInt64s(name, wide)
        axes, x, y = integers(node, "height", [2]), node.inputs[0], node.outputs[0]
        prepend(node, 0, "Unsqueeze", axes, suffix="x", shape=raised(x))
        flat = append(node, "Squeeze", axes, suffix="high", shape=raised(y))
        copy(flat.outputs[0], y)


def raised(value: ir.Value | None) -> ir.Shape | None:
    """The shape with a 1 before its last dimension."""
    if value is None or value.shape is None:
        return None
    sizes = list(value.shape)
    return ir.Shape([*sizes[:-1], 1, sizes[-1]])
