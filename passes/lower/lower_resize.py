# SPDX-License-Identifier: Apache-2.0
"""Lower a bilinear Resize of a quantized map to QResize between NHWC transposes.

Before:
    { y = Resize <mode = "linear"> (DequantizeLinear (x_codes), , scales)
      y_codes = QuantizeLinear (y) }
After:
    { x_nhwc = Transpose (x_codes)   y_nhwc = com.qcompile.QResize (x_nhwc)
      y_codes = Transpose (y_nhwc) }
Refuses: the output does not become codes; other interpolations, and scales of batch or channels.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from qcompile.graph import LAYOUT, NHWC, attribute, constant, input_of, remove_dead, replace
from qcompile.int8_ops import is_linear_resize, why_not_resized
from qcompile.passes.lower.lowered import TO_NCHW, TO_NHWC, op, permuted, remember, transpose
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerResize(NodePass):
    """Maps [B, C, H, W]; a nearest Resize moves codes as they are."""

    stage = "lower"
    op_types = ("Resize",)

    def match(self, node: ir.Node) -> tuple[Static, End] | str | None:
        """The codes on both sides."""
        static = static_of(node.inputs[0])
        if static is None or not is_linear_resize(node):
            return None
        end = end_of(node.outputs[0])
        if end is None:
            return "its output does not become codes"
        reason = why_not_resized(node)
        return reason if reason is not None else (static, end)

    def rewrite(self, node: ir.Node, found: tuple[Static, End]) -> None:
        """QResize between two transposes."""
        static, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        out = end.codes
        before = transpose(static.codes, TO_NHWC, f"{node.outputs[0].name}_x_nhwc")
        attributes = grid_attributes(node) | {
            "multiplier": float(np.float32(static.scale / end.scale)),
            "x_zero_point": static.zero_point,
            "y_zero_point": end.zero_point,
            "y_min": end.y_min,
            "y_max": end.y_max,
        }
        label, dtype = f"{out.name}_nhwc", ir.DataType.UINT8
        made = op("QResize", [before.outputs[0]], node.name or "", label, dtype, **attributes)
        remember(made, [static.codes], end)
        made.outputs[0].shape = permuted(node.outputs[0].shape, TO_NHWC)
        made.outputs[0].metadata_props.update({**out.metadata_props, LAYOUT: NHWC})
        after = transpose(made.outputs[0], TO_NCHW, f"{out.name}_nchw")
        graph.insert_after(end.passed[-1], [before, made, after])
        name = out.name
        replace(out, after.outputs[0])
        remove_dead(graph, [node, *end.passed])
        after.outputs[0].name = name


def grid_attributes(node: ir.Node) -> dict[str, Any]:
    """Mode, and the scales or sizes of height and width."""
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    scales, sizes = constant(input_of(node, 2)), constant(input_of(node, 3))
    if scales is not None and scales.size:
        return {"mode": mode, "scales": [float(s) for s in scales[2:]]}
    assert sizes is not None
    return {"mode": mode, "sizes": [int(s) for s in sizes[2:]]}
