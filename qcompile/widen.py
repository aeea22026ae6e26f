# SPDX-License-Identifier: Apache-2.0
"""Codes of 8 bits where fewer save nothing: of integer-only networks with narrow activations.

HAWQ-V3 (Yao et al. 2021, section 3) keeps what a residual sum adds wider than the codes of the
layers, and the first and the last layer at 8 bits. Here a value is widened where all that reads it
are products with weights of 8 bits, which have no narrower kernel, or sums, in whose kernel the
codes of a convolution stay in registers.
"""

from dataclasses import replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.graph import is_op
from qcompile.int8_ops import ARITHMETIC, MOVES_DATA
from qcompile.plan import NodePlan, Plan

WIDE = formats.get("uint8")
KEEPS_CODES = ("MaxPool", "GlobalMaxPool", "Concat")
NOTE = (
    "codes that only sums, or products with 8-bit weights, read have 8 bits; --activation-format "
    "says otherwise"
)


def widen(graph: ir.Graph, plan: Plan) -> Plan:
    """The plan with 8 bits for such values, and for the codes that leave the network."""
    readers: dict[str, list[ir.Node]] = {}
    ends = {v.name for v in graph.outputs}
    for node in graph:
        for value in node.inputs:
            if value is not None and value.name in plan.activations:
                readers.setdefault(value.name, []).append(node)
    made = {v.name or "": node for node in graph for v in node.outputs}
    families: dict[str, list[str]] = {}
    for name, leader in plan.leaders.items():
        families.setdefault(leader, []).append(name)
    specs = dict(plan.activations)
    for names in families.values():
        found = [node for name in names for node in readers.get(name, [])]
        is_end = any(name in ends for name in names)
        if any(is_op(made.get(name), *KEEPS_CODES) for name in names):
            continue  # what it makes has the codes of what it reads
        if (found or is_end) and all(_reads_wide(node, plan) for node in found):
            specs |= {name: replace(specs[name], format=WIDE) for name in names if name in specs}
    changed = {name for name, spec in specs.items() if spec != plan.activations[name]}
    if not changed:
        return plan
    by_name = {n.name: n for n in graph}
    nodes = {name: _widened(p, by_name.get(name), changed) for name, p in plan.nodes.items()}
    return replace(plan, nodes=nodes, activations=specs, notes=(*plan.notes, NOTE))


def _reads_wide(node: ir.Node, plan: Plan) -> bool:
    """Whether the node gains nothing from codes of less than 8 bits."""
    product = plan.nodes.get(node.name or "")
    if product is not None:
        return product.weight is not None and product.weight.bits > 4
    return is_op(node, *ARITHMETIC, *MOVES_DATA)


def _widened(plan: NodePlan, node: ir.Node | None, changed: set[str]) -> NodePlan:
    """The plan of a product whose input was widened."""
    source = node.inputs[0] if node is not None else None
    if plan.activation is None or source is None or source.name not in changed:
        return plan
    return replace(plan, activation=replace(plan.activation, format=WIDE))
