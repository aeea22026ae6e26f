# SPDX-License-Identifier: Apache-2.0
"""Lower an Add, Sub or Mul of two quantized tensors, with its Relu or Clip, to QAdd or QMul.

Before:
    { y = Add (DequantizeLinear (a_codes), DequantizeLinear (b_codes))
      r = Relu (y)   r_codes = QuantizeLinear (r) }
After:
    { r_codes = com.qcompile.QAdd (a_codes, b_codes) }
Refuses: an input or the output is not quantized.

One input may be codes that the user's model stores, of one scale; int8 codes move up by 128. A
single number is left to lower_function.

A difference is a sum whose second multiplier is negative (N20); a product has one multiplier (N26).
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qcompile.graph import constant, derived_initializer, input_of, is_constant, is_op, remove_dead
from qcompile.graph import replace as replace_value
from qcompile.passes.lower.lowered import op, remember
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerAdd(NodePass):
    """Residual sums, gates; shapes that broadcast."""

    stage = "lower"
    op_types = ("Add", "Sub", "Mul")

    def match(self, node: ir.Node) -> tuple[Static, Static, End] | str | None:
        """Both inputs' codes and where the sum becomes codes."""
        a, b = static_of(node.inputs[0]), static_of(node.inputs[1])
        if a is None and b is None:
            return None
        a, b = a or stored_codes_of(node.inputs[0]), b or stored_codes_of(node.inputs[1])
        if a is None or b is None:
            return "one of its inputs is not quantized"
        end = end_of(node.outputs[0])
        return (a, b, end) if end is not None else "its output does not become codes"

    def rewrite(self, node: ir.Node, found: tuple[Static, Static, End]) -> None:
        """QAdd in place of all that fuses."""
        graph, end = node.graph, found[2]
        assert isinstance(graph, ir.Graph)
        a, b = (_unsigned(graph, each) for each in found[:2])
        attributes = multipliers(node, a.scale, b.scale, end.scale) | {
            "a_zero_point": a.zero_point,
            "b_zero_point": b.zero_point,
            "y_zero_point": end.zero_point,
            "y_min": end.y_min,
            "y_max": end.y_max,
        }
        out = end.codes
        name = out.name or ""
        add = op(
            "QMul" if is_op(node, "Mul") else "QAdd",
            [a.codes, b.codes],
            node.name or "",
            f"{name}_sum",
            ir.DataType.UINT8,
            **attributes,
        )
        remember(add, [v for v in (a.codes, b.codes) if not is_constant(v)], end)
        add.outputs[0].shape = out.shape
        add.outputs[0].metadata_props.update(out.metadata_props)
        graph.insert_after(end.passed[-1], add)
        replace_value(out, add.outputs[0])
        remove_dead(graph, [node, *end.passed])
        add.outputs[0].name = name


def stored_codes_of(value: ir.Value | None) -> Static | None:
    """Codes of one scale that the model stores; int8 ones as they are."""
    back = value.producer() if value is not None else None
    if back is None or not is_op(back, "DequantizeLinear"):
        return None
    codes, scale, point = back.inputs[0], constant(back.inputs[1]), constant(input_of(back, 2))
    if codes is None or scale is None or scale.size != 1 or not is_constant(codes):
        return None
    is_number = np.asarray(constant(codes)).size == 1
    if is_number or codes.dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
        return None
    if scale.dtype != np.float32 or (point is None and input_of(back, 2) is not None):
        return None
    return Static(codes, float(scale), 0 if point is None else int(point), back)


def _unsigned(graph: ir.Graph, found: Static) -> Static:
    if found.codes.dtype != ir.DataType.INT8:
        return found
    codes = np.asarray(constant(found.codes)).astype(np.int16) + 128
    up = derived_initializer(
        graph, found.codes, "_unsigned", lambda: ir.tensor(codes.astype(np.uint8))
    )
    return replace(found, codes=up, zero_point=found.zero_point + 128)


def multipliers(node: ir.Node, a: float, b: float, y: float) -> dict[str, float]:
    """The multipliers of N20 and N26 from the three scales."""
    if is_op(node, "Mul"):
        return {"multiplier": float(np.float32(a * b / y))}
    sign = -1 if is_op(node, "Sub") else 1
    return {
        "a_multiplier": float(np.float32(a / y)),
        "b_multiplier": sign * float(np.float32(b / y)),
    }
