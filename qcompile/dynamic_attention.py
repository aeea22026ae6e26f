# SPDX-License-Identifier: Apache-2.0
"""Which attentions of floats are computed by products of codes that are made at run time (N32)."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from qcompile.attention import MARK, Attention, attention_at
from qcompile.numerics.dynamic_attention import FEW_ROWS
from qcompile.plan import NodePlan, Plan
from qcompile.recipe import Preset, Recipe
from qcompile.recurrent import rule_for, why_left
from qcompile.targets.target import Target

LEAST_NUMBERS, LEAST_KEYS = 64, 64
FUSED_OPS = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "PagedAttention")
FUSED = (
    "attention: a fused op computes it in float; written as MatMul, Softmax and MatMul it can run "
    "on codes"
)


def plan_attention(
    graph: ir.Graph, plan: Plan, recipe: Recipe, preset: Preset, target: Target
) -> Plan:
    """The plan with the last MatMul of every attention that codes may compute.

    Static codes take those whose q, k and v they reach; this is about the others. Presets with
    float activations keep them, as do recipes that exclude the MatMul, and heads that are too small
    to gain.
    """
    if preset.activation == "float" or plan.is_integer_only or not target.has_row_ops:
        return plan
    found: list[str] = []
    reasons: dict[str, str] = {}
    for node in graph:
        attention = attention_at(node)
        if attention is None and node.op_type not in FUSED_OPS:
            continue
        why = FUSED if attention is None else _why_not(attention, node, recipe)
        if why is None:
            found.append(node.name or "")
        elif not (isinstance(attention, Attention) and is_static(attention, plan)):
            reasons.setdefault(node.name or "", why)
    return replace(plan, attentions=frozenset(found), reasons=reasons | plan.reasons)


def is_static(attention: Attention, plan: Plan) -> bool:
    """Whether q, k, v and the output are static codes of one scale each."""
    specs = [plan.activations.get(v.name or "") for v in (*attention.operands, attention.output)]
    return all(spec is not None and spec.granularity == "tensor" for spec in specs)


def _why_not(attention: Attention | str, node: ir.Node, recipe: Recipe) -> str | None:
    if isinstance(attention, str):
        return attention
    left = why_left(node, recipe, rule_for(node, recipe))
    if left is not None:
        return left
    if any(v.dtype != ir.DataType.FLOAT for v in attention.operands):
        return "attention: its operands are not all float32"
    return _why_no_gain(attention)


def _why_no_gain(attention: Attention) -> str | None:
    """The sizes for which float products were measured to be as fast (docs/kernels.md)."""
    q, k, v = (list(x.shape or ()) for x in attention.operands)
    rows, depth, keys, width = q[-2], k[-2], k[-1], v[-1]
    if isinstance(depth, int) and isinstance(width, int) and depth + width < LEAST_NUMBERS:
        return (
            f"attention: heads of {depth} and {width} numbers; codes gain nothing below "
            f"{LEAST_NUMBERS} together"
        )
    if isinstance(keys, int) and isinstance(rows, int) and rows >= FEW_ROWS and keys < LEAST_KEYS:
        return f"attention: {rows} rows and {keys} keys; codes gain nothing below {LEAST_KEYS} keys"
    return None


def rules_about_nothing(
    graph: ir.Graph, nodes: Mapping[str, NodePlan], recipe: Recipe
) -> list[str]:
    """A note for each rule that covers neither a weighted node nor the end of an attention."""
    found = {each for plan in nodes.values() for each in plan.origins}
    found |= {(n.name or "", n.op_type) for n in graph if attention_at(n) is not None}
    return [
        f'{rule.source}: "{rule.match}" is about no weighted node of the model'
        for rule in recipe.rules
        if not any(rule.covers(*each) for each in found)
    ]


def mark(model: ir.Model, plan: Plan) -> ir.Model:
    """The model, with a note on the nodes that the plan names, for the passes of lower."""
    for node in model.graph:
        if node.name in plan.attentions:
            node.metadata_props[MARK] = "dynamic"
    return model
