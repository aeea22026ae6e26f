# SPDX-License-Identifier: Apache-2.0
"""--why: what was decided for one node or value, by which rule, and which presets refuse it."""

from typing import Any

import onnx_ir as ir

from qcompile.bodies import closed_bodies
from qcompile.errors import InputError, nearest
from qcompile.graph import is_op
from qcompile.node_specs import activation_spec_of, request_of, weight_spec_of
from qcompile.plan import RECURRENT_OPS, Plan
from qcompile.recipe import Preset, Recipe, preset_names
from qcompile.targets.target import Target


def why(plan: Plan, model: ir.Model, recipe: Recipe, target: Target, name: str) -> dict[str, Any]:
    """The decision about the node or value of that name; InputError where there is none."""
    graphs = [model.graph, *(body.graph for body in closed_bodies(model).values())]
    nodes = {n.name or "": n for graph in graphs for n in graph}
    values = {v.name or "": v for n in nodes.values() for v in n.outputs}
    values |= {v.name or "": v for graph in graphs for v in graph.inputs}
    if name in nodes:
        return _of_node(nodes[name], plan, recipe, target)
    if name in values:
        return _of_value(values[name], plan)
    near = nearest(name, [*nodes, *values]) if len(nodes) < 5000 else "see --dry-run"
    if near.startswith("known"):
        near = "--dry-run lists the nodes"
    raise InputError(f"--why {name}: the normalised model has no such node or value: {near}")


def _of_node(node: ir.Node, plan: Plan, recipe: Recipe, target: Target) -> dict[str, Any]:
    name = node.name or ""
    found: dict[str, Any] = {"node": name, "op": node.op_type}
    decided = plan.nodes.get(name)
    if decided is None:
        reason = plan.reasons.get(name, "it has no weight; its inputs and outputs decide")
        if name in plan.softmax:
            reason, found["softmax"] = "attention of static codes", plan.softmax[name].text
        return found | {"reason": reason, "outputs": _specs(node.outputs, plan)}
    covering = [r.source for r in recipe.rules if r.covers(name, node.op_type)]
    found |= {
        "weight": None if decided.weight is None else str(decided.weight),
        "activation": None if decided.activation is None else str(decided.activation),
        "decided_by": decided.rule,
        "reason": decided.reason or plan.reasons.get(name) or None,
        "rules": covering,
        "outputs": _specs(node.outputs, plan),
    }
    if decided.weight is not None:
        found["kernel"] = target.kernel(request_of(node, decided.weight, decided.activation))
    has_spec = decided.weight is not None or decided.rule.startswith("preset")
    has_spec &= not is_op(node, *RECURRENT_OPS)  # every preset has one reason (recurrent.py)
    return found | {"refused": _refusals(node, recipe, target) if has_spec else {}}


def _refusals(node: ir.Node, recipe: Recipe, target: Target) -> dict[str, str]:
    """Reason → the presets that the target refuses for this node because of it."""
    found: dict[str, list[str]] = {}
    for name in preset_names():
        preset = Preset.parse(name)
        try:
            weight = weight_spec_of(node, preset.weight_bits, preset.activation, None, None)
            request = request_of(node, weight, activation_spec_of(node, preset, recipe))
        except (InputError, AssertionError):
            continue
        reason = target.refuse(request)
        if reason is not None:
            found.setdefault(reason, []).append(name)
    return {reason: ", ".join(names) for reason, names in found.items()}


def _of_value(value: ir.Value, plan: Plan) -> dict[str, Any]:
    name, producer = value.name or "", value.producer()
    spec = plan.activations.get(name)
    reason = None
    if spec is None:
        near = [n for n in (producer, *(u.node for u in value.uses())) if n is not None]
        reasons = [plan.reasons[n.name or ""] for n in near if (n.name or "") in plan.reasons]
        reason = "; ".join(dict.fromkeys(reasons)) or "no op around it gives or takes static codes"
    return {
        "value": name,
        "producer": None if producer is None else producer.name,
        "readers": [use.node.name for use in value.uses()],
        "spec": None if spec is None else str(spec),
        "range_of": plan.leaders.get(name),
        "reason": reason,
    } | _by_step(name, plan)


def _by_step(name: str, plan: Plan) -> dict[str, str]:
    """Whether the time step chooses the scale, where it chooses any."""
    if name in plan.stepped:
        return {"scale_by_time_step": "yes"}
    return {"scale_by_time_step": plan.unstepped[name]} if name in plan.unstepped else {}


def _specs(values: Any, plan: Plan) -> dict[str, str]:
    return {v.name or "": str(plan.activations.get(v.name or "", "float")) for v in values}
