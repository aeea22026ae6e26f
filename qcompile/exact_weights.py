# SPDX-License-Identifier: Apache-2.0
"""exact_weights: weights that lie on a grid already keep their values, packed without any error.

They are recognised (observers/grid_of.py) where no weight format is asked for and the grid needs no
more bits than the preset gives. Nothing changes them afterwards: no rotation, compensation, tuning.
"""

from dataclasses import replace

import onnx_ir as ir

from qcompile.bodies import compiled_graphs
from qcompile.formats.palette import PALETTES
from qcompile.graph import is_op
from qcompile.node_specs import request_of
from qcompile.observers.codebook_of import own_codebooks
from qcompile.observers.grid_of import grid_of, spec_of
from qcompile.plan import RECURRENT_OPS, NodePlan, Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target

RULE = "its weight lies on this grid already: no error"
OWN_CODEBOOKS = (
    "it is rounded, though every {} columns have at most 16 different values, and not those of one "
    "table times a scale: {}"
)
TOO_SHORT = "their levels would take more bytes than their codes"
INTEGERS = (
    "it lies on a codebook of {} levels, which integer products round to 16 bits; a preset with "
    "float activations (a16) keeps it without any error"
)


def keep_exact(model: ir.Model, plan: Plan, recipe: Recipe, target: Target) -> Plan:
    """The plan with such weights in their own formats, as the target can run them."""
    if recipe.weight_format or any(rule.weight_format for rule in recipe.rules):
        return plan
    readers: dict[str, list[ir.Node]] = {}
    for graph in compiled_graphs(model):
        for node in graph:
            planned = plan.nodes.get(node.name or "")
            if planned is not None and planned.is_rounded and not is_op(node, *RECURRENT_OPS):
                readers.setdefault(planned.weight_name, []).append(node)
    nodes, reasons = dict(plan.nodes), []
    for name, found in readers.items():
        plans = [nodes[node.name or ""] for node in found]
        is_whole = sum(p.weight_name == name for p in nodes.values()) == len(found)
        spec = _exact_spec(found, plans, target) if is_whole else None
        if isinstance(spec, str):
            reasons.append(f"{name}: {spec}")
            continue
        for node in found if spec is not None else ():
            kept = replace(nodes[node.name or ""], weight=spec, rule=RULE, is_exact=True)
            nodes[node.name or ""] = kept
    count = len({p.weight_name for p in nodes.values() if p.is_exact})
    if not count and not reasons:
        return plan
    note = f"weights that lie on a grid already, packed without any error: {count}"
    return replace(plan, nodes=nodes, notes=(*plan.notes, *[note] * bool(count), *reasons))


def _exact_spec(
    nodes: list[ir.Node], planned: list[NodePlan], target: Target
) -> QuantSpec | str | None:
    """The spec of the weight's own grid, where every reader can have it; or why a grid is lost."""
    value, asked = weight_of(nodes[0]), planned[0].weight
    if value is None or value.const_value is None or asked is None or asked.sparsity is not None:
        return None
    array = value.const_value.numpy()
    matrix = array.reshape(len(array), -1)
    floats = all(p.activation is None or p.activation.is_dynamic for p in planned)
    has_blocks = floats and not any(is_op(node, "Conv") for node in nodes)
    refused = _refusals(nodes, planned, QuantSpec(PALETTES["palette4"], "axis"), target)
    found = grid_of(matrix, has_blocks=has_blocks, has_codebooks=not refused)
    if found is None:
        block = own_codebooks(matrix)
        return None if block is None else OWN_CODEBOOKS.format(block, [*refused, TOO_SHORT][0])
    if found.format.bits > asked.bits:
        return None
    spec = spec_of(found)
    if any(p.activation is not None for p in planned) and found.format.entry_bits > 16:
        return INTEGERS.format(len(set(found.format.table or ())))
    return None if _refusals(nodes, planned, spec, target) else spec


def _refusals(
    nodes: list[ir.Node], planned: list[NodePlan], spec: QuantSpec, target: Target
) -> list[str]:
    """Why the target does not run the readers of a weight with that spec."""
    requests = (request_of(n, spec, p.activation) for n, p in zip(nodes, planned, strict=True))
    return [why for request in requests if (why := target.refuse(request)) is not None]
