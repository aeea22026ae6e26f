# SPDX-License-Identifier: Apache-2.0
"""Where static activation codes flow: the placement rules of the quantization whitepaper.

Krishnamoorthi 2018, section 3: what fuses (Conv, bias, ReLU) has no quantizer inside; both inputs
of an Add are quantized; ops that only move data keep their input's scale. An op joins only where
its inputs are quantized already, so an int8 op never forces a new quantizer into a float
neighbourhood.
"""

from dataclasses import replace

import onnx_ir as ir

from qcompile.graph import constant, input_of, is_op, rank
from qcompile.plan import Plan
from qcompile.products import fused_end
from qcompile.recipe import Preset, Recipe
from qcompile.spec import QuantSpec

MOVES_DATA = ("Reshape", "Flatten", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Pad", "MaxPool")
POOLS = ("AveragePool", "GlobalAveragePool")


def spread_activations(graph: ir.Graph, plan: Plan, preset: Preset, recipe: Recipe) -> Plan:
    """The plan with all that static codes reach: activations, shared statistics, reasons."""
    specs: dict[str, QuantSpec] = {}
    leaders: dict[str, str] = {}
    reasons: dict[str, str] = {}

    def quantize(value: ir.Value, spec: QuantSpec, leader: str | None = None) -> None:
        name = value.name or ""
        if name not in specs:
            specs[name] = spec
            leaders[name] = leaders.get(leader, leader) if leader else name

    for node in graph:
        node_plan = plan.nodes.get(node.name or "")
        if node_plan is not None:
            spec = node_plan.activation
            if node_plan.is_quantized and spec is not None and not spec.is_dynamic:
                assert node.inputs[0] is not None
                quantize(node.inputs[0], spec)
                quantize(fused_end(node), spec)
            continue
        source = node.inputs[0] if node.inputs else None
        if source is None or not specs:
            continue
        known = specs.get(source.name or "")
        if is_op(node, "Add") and any(v is not None and v.name in specs for v in node.inputs):
            other = node.inputs[1]
            if all(v is not None and v.name in specs for v in node.inputs):
                quantize(fused_end(node), known or specs[other.name or ""])  # type: ignore[union-attr]
            else:
                reasons[node.name or ""] = "Add: one of its inputs is not quantized"
        elif known is not None and is_op(node, *MOVES_DATA):
            reason = why_not_moved(node)
            if reason is None:
                quantize(node.outputs[0], known, source.name)
            else:
                reasons[node.name or ""] = reason
        elif known is not None and is_op(node, *POOLS):
            if rank(source) == 4 and not _odd_pool(node):
                quantize(node.outputs[0], known)
            else:
                reasons[node.name or ""] = f"{node.op_type}: only plain 2-D pools run on codes"
        elif known is not None and not is_op(node, "Relu", "Clip", "Shape"):
            reasons[node.name or ""] = f"{node.op_type} has no int8 kernel yet"
    return replace(plan, activations=specs, leaders=leaders, reasons=reasons)


def why_not_moved(node: ir.Node) -> str | None:
    """None where the op moves codes as it moves numbers."""
    if is_op(node, "Pad"):
        value = input_of(node, 2)
        fill = constant(value)
        if value is not None and (fill is None or float(fill.ravel()[0]) != 0.0):
            return "Pad: pads with something other than 0"
    if is_op(node, "MaxPool") and (rank(node.inputs[0]) != 4 or _odd_pool(node)):
        return "MaxPool: only plain 2-D pools run on codes"
    if is_op(node, "MaxPool") and len(node.outputs) > 1 and node.outputs[1].uses():
        return "MaxPool: its indices are read"
    return None


def _odd_pool(node: ir.Node) -> bool:
    attributes = node.attributes
    return (
        bool(attributes["ceil_mode"].value if "ceil_mode" in attributes else 0)
        or ("dilations" in attributes and any(d != 1 for d in attributes["dilations"].value))
        or ("auto_pad" in attributes and attributes["auto_pad"].value not in ("NOTSET", "VALID"))
    )
