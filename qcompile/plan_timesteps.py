# SPDX-License-Identifier: Apache-2.0
"""Which activations get a scale for every bucket of time steps, and why others keep one (QuEST).

A product takes its multiplier and bias, and a table of a function its 256 codes, from inputs of the
op, which a table indexed by the time step can give. Sums, pools and other int8 ops have their
scales as attributes: what they read or write keeps one scale, and so does all that shares it.
"""

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from qcompile.errors import InputError
from qcompile.graph import is_constant, is_op
from qcompile.int8_ops import is_function
from qcompile.passes.lower.move_dequantize_past_data_op import MoveDequantizePastDataOp
from qcompile.plan import Plan
from qcompile.products import fused_end, is_relu
from qcompile.recipe import Recipe
from qcompile.targets.target import Target
from qcompile.timesteps import check_timestep

MOVED = MoveDequantizePastDataOp.op_types
_TARGET = "cpu"
_LISTED = 4  # names of a note


def plan_timesteps(
    graph: ir.Graph, plan: Plan, recipe: Recipe, target: Target, *, has_data: bool
) -> Plan:
    """The plan with the activations that have such scales; InputError where none can."""
    name = recipe.timestep_input
    if name is None:
        return plan
    check_timestep(graph.inputs, name)
    if target.name != _TARGET or plan.is_integer_only:
        what = "--integer-only" if plan.is_integer_only else f"target {target.name}"
        raise InputError(
            f'timestep input "{name}": {what} takes scales that are constant; target cpu without '
            "--integer-only has kernels that take them from a table"
        )
    if not has_data:
        raise InputError(f'timestep input "{name}": give --calibration-data with its time steps')
    if recipe.activation_polish is not None:
        raise InputError(
            f'timestep input "{name}": activation polish {recipe.activation_polish} has one set of '
            "levels for all time steps: leave one of them out"
        )
    if not plan.activations:
        raise InputError(
            f'timestep input "{name}": {plan.preset} makes no static activations, whose scales it '
            "could choose: take preset w4a4 or w8a8"
        )
    why = _reasons(graph, plan)
    stepped = frozenset(n for n in plan.activations if not why[n])
    unstepped = {n: reason for n, reason in why.items() if reason}
    plan = replace(plan, stepped=stepped, unstepped=unstepped)
    return replace(plan, notes=(*plan.notes, *_notes(plan, name, recipe.timestep_buckets)))


def _notes(plan: Plan, name: str, most: int) -> Iterable[str]:
    yield (
        f"{len(plan.stepped)} of {len(plan.activations)} activations have a scale for each of up "
        f"to {most} buckets of the time step {name}, of a run that of its first sample; the others "
        "keep one (--why VALUE says why)"
    )
    by_reason: dict[str, list[str]] = {}
    for value, reason in plan.unstepped.items():
        by_reason.setdefault(reason, []).append(value)
    for reason, values in by_reason.items():
        more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
        yield f"one scale for all time steps: {', '.join(values[:_LISTED])}{more}: {reason}"


def _reasons(graph: ir.Graph, plan: Plan) -> dict[str, str]:
    """Activation → why it has one scale; "" where the time step may choose it."""
    found = {v.name or "": v for v in graph.inputs} | {
        v.name or "": v for n in graph for v in n.outputs
    }
    ends = {fused_end(n).name for n in graph if _is_product(n, plan)}
    own: dict[str, str] = {}
    for name, spec in plan.activations.items():
        value = found[plan.copies.get(name, name)]
        if spec.granularity != "tensor":
            own[name] = "it has a scale a channel"
        elif name in plan.copies:
            own[name] = ""  # products alone read it, and a table writes it
        else:
            own[name] = _written(value, plan, ends) or _read(value, plan)
    shared: dict[str, str] = {}
    for name, leader in plan.leaders.items():
        if own[name]:
            shared.setdefault(leader, f"it shares its scale with {name}: {own[name]}")
    return {name: own[name] or shared.get(plan.leaders[name], "") for name in own}


def _is_product(node: ir.Node, plan: Plan) -> bool:
    """Whether the node runs as a product on static codes, of which quantization makes the plan."""
    found = plan.nodes.get(node.name or "")
    if found is None or not found.is_rounded or found.activation is None:
        return False
    return not found.activation.is_dynamic


def _written(value: ir.Value, plan: Plan, ends: set[str | None]) -> str:
    node = value.producer()
    if node is None or value.name in ends or is_op(node, *MOVED) or _is_table(node, plan):
        return ""
    name = node.name or ""
    if name in plan.nodes or name in plan.reasons or not _reads_codes(node, plan):
        return ""  # it gives floats
    inner = node.inputs[0].producer() if is_relu(node) and node.inputs[0] is not None else None
    return f"{(inner or node).op_type} writes it, whose scale is an attribute"


def _is_table(node: ir.Node, plan: Plan) -> bool:
    """Whether the node is a function of one activation, at once or through other functions."""
    found, todo = set(), [node]
    while todo:
        each = todo.pop()
        if not is_function(each):
            return False
        for value in each.inputs:
            if value is None or is_constant(value):
                continue
            maker = value.producer()
            if value.name in plan.activations:
                found.add(value.name)
            elif maker is None:
                return False
            else:
                todo.append(maker)
    return len(found) == 1


def _reads_codes(node: ir.Node, plan: Plan) -> bool:
    """Whether codes reach the node through other nodes than products, as those of a norm do."""
    todo, seen = [node], {node}
    while todo:
        for value in todo.pop().inputs:
            if value is None or is_constant(value):
                continue
            if value.name in plan.activations:
                return True
            maker = value.producer()
            if maker is not None and maker.name not in plan.nodes and maker not in seen:
                seen.add(maker)
                todo.append(maker)
    return False


def _read(value: ir.Value, plan: Plan) -> str:
    if value.is_graph_output():
        return "it leaves the network"
    for use in value.uses():
        node, name = use.node, use.node.name or ""
        is_ready = name in plan.nodes or name in plan.reasons or _is_table(node, plan)
        if not is_ready and not is_op(node, "Shape", "Size", *MOVED):
            return f"{node.op_type} reads it, whose scale is an attribute"
    return ""
