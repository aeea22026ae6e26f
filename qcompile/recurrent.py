# SPDX-License-Identifier: Apache-2.0
"""Which GRU, RNN and LSTM nodes run from codes, how, and why the others not.

An LSTM of 8 bits runs in ONNX Runtime's DynamicQuantizeLSTM, which quantizes its input and state
itself, to uint8 with one scale a tensor; W and R have one scale an output of every direction. All
others are split into products (split_recurrent), which the recipe decides about like any other.
"""

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.bodies import nodes_of
from qcompile.formats.block import AUTO
from qcompile.graph import attribute, input_of, is_constant, is_op, static_shape
from qcompile.passes.normalise.recurrent_scans import PART_OF
from qcompile.passes.normalise.split_recurrent import why_not_split
from qcompile.plan import NodePlan
from qcompile.recipe import Preset, Recipe, Rule
from qcompile.spec import QuantSpec

WEIGHT = QuantSpec(formats.get("int8"), "axis")
IN_CODES = ("DequantizeLinear", "MatMulNBits", "MatMulInteger", "QLinearMatMul", "QLinearConv")


def split_for(recipe: Recipe, source: ir.Model, *, has_data: bool) -> Callable[[ir.Node], bool]:
    """Which recurrent nodes normalise splits: those that will be quantized, and not in ORT's op."""
    is_in_codes = any(n.op_type in IN_CODES for n in nodes_of(source))
    usual = recipe.preset or ("w8a8" if has_data else "w8a8-dynamic")

    def is_split(node: ir.Node) -> bool:
        rule = rule_for(node, recipe)
        if recipe.preset is None and is_in_codes and (rule is None or rule.preset is None):
            return False  # the model's own codes are kept, and nothing else is quantized
        if why_left(node, recipe, rule):
            return False
        preset = Preset.parse(rule.preset if rule is not None and rule.preset else usual)
        return not is_op(node, "LSTM") or not runs_whole(node, preset, rule)

    return is_split


def why_left(node: ir.Node, recipe: Recipe, rule: Rule | None) -> str | None:
    """What of the recipe keeps the node in float."""
    if rule is not None and rule.exclude:
        return f"excluded by {rule.source}"
    op_type = origin(node)[1]
    if recipe.op_types_to_quantize and op_type not in recipe.op_types_to_quantize:
        return f"{op_type} is not among --op-types-to-quantize"
    return None


def origin(node: ir.Node) -> tuple[str, str]:
    """Name and op for the rules of a recipe: those of the recurrent node that it is a part of."""
    part_of = node.metadata_props.get(PART_OF)
    if part_of is None:
        return node.name or "", node.op_type
    name, op_type = part_of.split("\n")
    return name, op_type


def rule_for(node: ir.Node, recipe: Recipe) -> Rule | None:
    """The last rule about the node, or about the recurrent node that it is a part of."""
    names = {(node.name or "", node.op_type), origin(node)}
    found = [r for r in recipe.rules if any(r.covers(*each) for each in names)]
    return found[-1] if found else None


def runs_whole(node: ir.Node, preset: Preset, rule: Rule | None) -> bool:
    """Whether ONNX Runtime's op does what is asked of an LSTM."""
    asked = rule.weight_format if rule is not None else None
    is_asked = preset.activation != "float" and (preset.weight_bits, preset.activation_bits) == (
        8,
        8,
    )
    return is_asked and asked in (None, AUTO, WEIGHT.format.name) and not _why_not_whole(node)


def plan_recurrent(plan: NodePlan, node: ir.Node, preset: Preset, rule: Rule | None) -> NodePlan:
    """The plan of a node that was not split: int8 in ONNX Runtime's LSTM, else the reason."""
    if is_op(node, "LSTM") and runs_whole(node, preset, rule):
        return replace(plan, weight=WEIGHT)
    return replace(plan, reason=why_not_split(node) or "it was not split into products")


def recurrent_notes(nodes: dict[str, NodePlan]) -> list[str]:
    """What a user of a quantized LSTM must know."""
    if not any(p.op_type == "LSTM" and p.is_quantized for p in nodes.values()):
        return []
    return [
        "ONNX Runtime's LSTM quantizes its input and state itself, to uint8 with one scale a "
        "tensor: a sample may depend on its batch"
    ]


def _why_not_whole(node: ir.Node) -> str:
    """What of the node itself is in the way."""
    for index in (1, 2):
        value = input_of(node, index)
        dims = static_shape(value) if value is not None else None
        if value is None or not is_constant(value) or value.dtype != ir.DataType.FLOAT:
            return "a weight is no float32 constant"
        if dims is None or len(dims) != 3 or 0 in dims:
            return f"a weight has the shape {value.shape}"
    if attribute(node, "layout", 0) != 0:
        return "layout 1 has no kernel in ONNX Runtime"
    return ""
