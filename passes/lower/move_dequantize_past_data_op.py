# SPDX-License-Identifier: Apache-2.0
"""Move DequantizeLinear past an op that only moves data, so that the op moves codes.

Before:
    { y = Reshape (DequantizeLinear (x_codes), shape)   y_codes = QuantizeLinear (y) }
After:
    { y_codes = Reshape (x_codes, shape) }
Refuses: the output does not become codes, at once and of the same scale and zero point.

Pad writes the zero point where it wrote 0.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, is_op, new_node, remove_dead, replace
from qcompile.int8_ops import MOVES_DATA, why_not_moved
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class MoveDequantizePastDataOp(NodePass):
    """Reshape and its like, Transpose, Slice, Gather, Pad, nearest Resize …"""

    stage = "lower"
    op_types = tuple(
        op for op in MOVES_DATA if op not in ("MaxPool", "GlobalMaxPool", "Split")
    )  # which have passes of their own

    def match(self, node: ir.Node) -> tuple[Static, End] | str | None:
        """The codes on both sides."""
        static = static_of(node.inputs[0], by_step=True)
        end = end_of(node.outputs[0], by_step=True)
        if static is None or end is None:
            return None if static is None else "its output does not become codes"
        if not is_op(end.passed[0], "QuantizeLinear"):
            return f"{end.passed[0].op_type} stands between it and its codes"
        if not _is_one_scale(static, end):
            return "its output has another scale than its input"
        reason = why_not_moved(node)
        return reason if reason is not None else (static, end)

    def rewrite(self, node: ir.Node, found: tuple[Static, End]) -> None:
        """The same op on the codes."""
        static, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        inputs = [static.codes, *node.inputs[1:]]
        if is_op(node, "Pad"):
            fill = add_initializer(
                graph, f"{node.name}_fill", np.array(static.zero_point, np.uint8)
            )
            inputs = [*inputs[:2], fill, *inputs[3:]]
        name, out = end.codes.name or "", end.codes
        moved = new_node(
            node.op_type, inputs, node.name or "", f"{name}_moved", dtype=ir.DataType.UINT8
        )
        moved.attributes.update(node.attributes)
        moved.outputs[0].shape = node.outputs[0].shape
        moved.outputs[0].metadata_props.update(out.metadata_props)
        graph.insert_after(end.passed[-1], moved)
        replace(out, moved.outputs[0])
        remove_dead(graph, [node, *end.passed])
        moved.outputs[0].name = name


def _is_one_scale(static: Static, end: End) -> bool:
    """Whether the codes mean the same on both sides, at every time step."""
    before, after = (None if s is None else s.rows for s in (static.steps, end.steps))
    if (before is None) != (after is None) or static.zero_point != end.zero_point:
        return False
    if before is None or after is None:
        return static.scale == end.scale
    return np.array_equal(before, after)
