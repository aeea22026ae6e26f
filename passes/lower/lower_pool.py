# SPDX-License-Identifier: Apache-2.0
"""Lower a pool of a quantized map to QPool between NHWC transposes.

Before:
    { y = GlobalAveragePool (DequantizeLinear (x_codes))   y_codes = QuantizeLinear (y) }
After:
    { x_nhwc = Transpose (x_codes)   y_nhwc = com.qcompile.QPool (x_nhwc)
      y_codes = Transpose (y_nhwc) }
Refuses: the output does not become codes; a maximum whose output has another scale.

ReduceMean over height and width is a global average, with a Squeeze where it drops the axes.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    LAYOUT,
    NHWC,
    add_initializer,
    attribute,
    is_op,
    new_node,
    remove_dead,
    replace,
)
from qcompile.int8_ops import why_not_pooled
from qcompile.passes.lower.lowered import (
    TO_NCHW,
    TO_NHWC,
    op,
    permuted,
    remember,
    transpose,
    window_attributes,
)
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass

MAXIMA = ("MaxPool", "GlobalMaxPool")


class LowerPool(NodePass):
    """Average, global average and maximum."""

    stage = "lower"
    op_types = ("AveragePool", "GlobalAveragePool", "ReduceMean", "MaxPool", "GlobalMaxPool")

    def match(self, node: ir.Node) -> tuple[Static, End] | str | None:
        """The codes on both sides."""
        static, end = static_of(node.inputs[0]), end_of(node.outputs[0])
        if static is None:
            return None
        if end is None:
            return "its output does not become codes"
        same = (static.scale, static.zero_point) == (end.scale, end.zero_point)
        if is_op(node, *MAXIMA) and not same:
            return "its output has another scale than its input"
        reason = why_not_pooled(node)
        return reason if reason is not None else (static, end)

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
        pool.outputs[0].shape = permuted(_map_shape(node), TO_NHWC)
        pool.outputs[0].metadata_props.update({**out.metadata_props, LAYOUT: NHWC})
        after = transpose(pool.outputs[0], TO_NCHW, f"{out.name}_nchw")
        made = [before, pool, after]
        if is_op(node, "ReduceMean") and not attribute(node, "keepdims", 1):
            pool.metadata_props["qcompile.squeezed"] = "1"
            made.append(_squeezed(graph, after.outputs[0], f"{out.name}_squeezed"))
        graph.insert_after(end.passed[-1], made)
        name = out.name
        replace(out, made[-1].outputs[0])
        remove_dead(graph, [node, *end.passed])
        made[-1].outputs[0].name = name


def pool_attributes(node: ir.Node) -> dict[str, Any]:
    """Mode and window; an empty kernel_shape is the whole map."""
    mode = "max" if is_op(node, *MAXIMA) else "average"
    return {
        "mode": mode,
        "kernel_shape": ir.AttrInt64s("kernel_shape", list(attribute(node, "kernel_shape", ()))),
        "count_include_pad": int(attribute(node, "count_include_pad", 0)),
    } | window_attributes(node)


def _map_shape(node: ir.Node) -> ir.Shape | None:
    """The shape of the pooled map [B, C, OH, OW]; a ReduceMean has one pixel."""
    source = node.inputs[0]
    if not is_op(node, "ReduceMean"):
        return node.outputs[0].shape
    return None if source is None or source.shape is None else ir.Shape([*source.shape[:2], 1, 1])


def _squeezed(graph: ir.Graph, value: ir.Value, output: str) -> ir.Node:
    """The map [B, C, 1, 1] as [B, C]."""
    dims = add_initializer(graph, f"{output}_shape", np.array([0, -1], np.int64))
    shape = None if value.shape is None else ir.Shape(value.shape[:2])
    return new_node(
        "Reshape", [value, dims], f"{output}/reshape", output, dtype=ir.DataType.UINT8, shape=shape
    )
