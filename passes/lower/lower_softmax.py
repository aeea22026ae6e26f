# SPDX-License-Identifier: Apache-2.0
"""Lower a Softmax of codes to QSoftmax.

Before:
    { y = Softmax (DequantizeLinear (x_codes))   y_codes = QuantizeLinear (y) }
After:
    { y_codes = com.qcompile.QSoftmax (x_codes, table) }
Refuses: the output does not become codes; an axis that is neither the last nor the channels of
maps, which stand between NHWC transposes.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, rank
from qcompile.int8_ops import softmax_axis
from qcompile.numerics.softmax import exp_table
from qcompile.passes.lower.lowered import op, replace_row_op
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerSoftmax(NodePass):
    """The exponentials of 256 codes are a table (N29)."""

    stage = "lower"
    op_types = ("Softmax",)

    def match(self, node: ir.Node) -> tuple[int, Static, End] | str | None:
        """The axis and the codes on both sides."""
        static = static_of(node.inputs[0])
        if static is None:
            return None
        axis, end = softmax_axis(node), end_of(node.outputs[0])
        if isinstance(axis, str):
            return axis
        return (axis, static, end) if end is not None else "its output does not become codes"

    def rewrite(self, node: ir.Node, found: tuple[int, Static, End]) -> None:
        """QSoftmax in its place."""
        axis, static, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        name = node.outputs[0].name or ""
        table = add_initializer(graph, f"{name}_table", exp_table(static.scale))
        made = op(
            "QSoftmax",
            [static.codes, table],
            node.name or "",
            f"{name}_row",
            ir.DataType.UINT8,
            multiplier=float(np.float32(1 / end.scale)),
            y_zero_point=end.zero_point,
            y_min=end.y_min,
            y_max=end.y_max,
        )
        is_last = axis + 1 == rank(node.inputs[0])
        replace_row_op(made, static, end, (node,), is_last=is_last)
