# SPDX-License-Identifier: Apache-2.0
"""Which LSTM nodes run from codes, in ONNX Runtime's DynamicQuantizeLSTM, and why the others not.

That op quantizes its input and its state itself, to 8 bits with one scale a tensor; here they stay
float, and the weights W and R have one scale an output of every direction.
"""

from dataclasses import replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.graph import attribute, input_of, is_constant, static_shape
from qcompile.plan import NodePlan
from qcompile.recipe import Preset, Rule
from qcompile.spec import QuantSpec

WEIGHT = QuantSpec(formats.get("int8"), "axis")
DECIDES = "an LSTM has 8 bits"


def plan_recurrent(plan: NodePlan, node: ir.Node, preset: Preset, rule: Rule | None) -> NodePlan:
    """The plan of an LSTM: int8 where activations are quantized to 8 bits, else the reason."""
    asked = rule.weight_format if rule is not None else None
    reason = _shape_reason(node)
    if preset.activation == "float":
        reason = f"ONNX Runtime has no low-bit LSTM with float activations: {preset.name} was asked"
    elif preset.activation_bits != 8:
        reason = f"ONNX Runtime's LSTM quantizes to 8 bits; {preset.name} was asked"
    elif asked not in (None, WEIGHT.format.name):
        reason = f"ONNX Runtime's LSTM has {WEIGHT.format} weights; {asked} was asked"
    if reason:
        return replace(plan, reason=reason)
    source = plan.rule if preset.weight_bits == WEIGHT.bits else f"{plan.rule}; {DECIDES}"
    return replace(plan, weight=WEIGHT, rule=source)


def recurrent_notes(nodes: dict[str, NodePlan]) -> list[str]:
    """What a user of a quantized LSTM must know."""
    if not any(p.op_type == "LSTM" and p.is_quantized for p in nodes.values()):
        return []
    return [
        "ONNX Runtime's LSTM quantizes its input and state itself, to uint8 with one scale a "
        "tensor: a sample may depend on its batch"
    ]


def _shape_reason(node: ir.Node) -> str:
    """What of the node itself is in the way."""
    recurrence = input_of(node, 2)
    dims = static_shape(recurrence) if recurrence is not None else None
    if recurrence is None or not is_constant(recurrence) or recurrence.dtype != ir.DataType.FLOAT:
        return "its recurrence weight is no float32 constant"
    if dims is None or len(dims) != 3 or 0 in dims:
        return f"its recurrence weight has the shape {recurrence.shape}"
    if attribute(node, "layout", 0) != 0:
        return "layout 1 has no kernel in ONNX Runtime"
    return ""
