# SPDX-License-Identifier: Apache-2.0
"""Lower a pool of a quantized map to QPool between NHWC transposes.

Before:
    { y = GlobalAveragePool (DequantizeLinear (x_codes))   y_codes = QuantizeLinear (y) }
After:
    { x_nhwc = Transpose (x_codes)   y_nhwc = com.qcompile.QPool (x_nhwc)
      y_codes = Transpose (y_nhwc) }
Refuses: the output does not become codes; a MaxPool whose output has another scale.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from qcompile.graph import LAYOUT, NHWC, attribute, is_op, remove_dead, replace
from qcompile.passes.lower.lowered import TO_NCHW, TO_NHWC, op, permuted, remember, transpose
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerPool(NodePass):
    """Average, global average and maximum."""

    stage = "lower"
    op_types = ("AveragePool", "GlobalAveragePool", "MaxPool")

    def match(self, node: ir.Node) -> tuple[Static, End] | str | None:
        """The codes on both sides."""
        static, end = static_of(node.inputs[0]), end_of(node.outputs[0])
        if static is None:
            return None
        if end is None:
            return "its output does not become codes"
        same = (static.scale, static.zero_point) == (end.scale, end.zero_point)
        if is_op(node, "MaxPool") and not same:
            return "its output has another scale than its input"
        return static, end

    def rewrite(self, node: ir.Node, found: tuple[Static, End]) -> None:
        """QPool between two transposes."""
        static, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        out = end.codes
        before = transpose(static.codes, TO_NHWC, f"{node.outputs[0].name}_x_nhwc")
        attributes = pool_attributes(node) | {
            "multiplier": float(np.float32(static.scale / end.scale)),
            "x_zero_point": static.zero_point,
            "y_zero_point": end.zero_point,
            "y_min": end.y_min,
            "y_max": end.y_max,
        }
        pool = op(
            "QPool",
            [before.outputs[0]],
            node.name or "",
            f"{out.name}_nhwc",
            ir.DataType.UINT8,
            **attributes,
        )
        remember(pool, [static.codes], end)
        pool.outputs[0].shape = permuted(node.outputs[0].shape, TO_NHWC)
        pool.outputs[0].metadata_props.update({**out.metadata_props, LAYOUT: NHWC})
        after = transpose(pool.outputs[0], TO_NCHW, f"{out.name}_nchw")
        graph.insert_after(end.passed[-1], [before, pool, after])
        name = out.name
        replace(out, after.outputs[0])
        remove_dead(graph, [node, *end.passed])
        after.outputs[0].name = name


def pool_attributes(node: ir.Node) -> dict[str, Any]:
    """Mode and window; an empty kernel_shape is the whole map."""
    mode = "max" if is_op(node, "MaxPool") else "average"
    return {
        "mode": mode,
        "kernel_shape": ir.AttrInt64s("kernel_shape", list(attribute(node, "kernel_shape", ()))),
        "strides": list(attribute(node, "strides", (1, 1))),
        "pads": list(attribute(node, "pads", (0, 0, 0, 0))),
        "count_include_pad": int(attribute(node, "count_include_pad", 0)),
    }
