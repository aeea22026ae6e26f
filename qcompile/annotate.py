# SPDX-License-Identifier: Apache-2.0
"""annotate: for every value a QuantSpec or the reason why not; all legality errors at once."""

from dataclasses import replace

import onnx_ir as ir

from qcompile.batch_norm_ranges import BATCH_NORM, BATCH_NORM_NOTE
from qcompile.bodies import all_bodies, closed_bodies, compiled_graphs
from qcompile.dynamic_attention import plan_attention, rules_about_nothing
from qcompile.errors import InputError
from qcompile.graph import attribute, input_of, is_constant, is_op, static_shape
from qcompile.imported_plan import AS_THE_MODEL_SAYS, FLOAT_IN_THE_MODEL, plan_imported
from qcompile.integer_only import problems_of
from qcompile.network_check import check_plan
from qcompile.node_specs import (
    activation_spec_of,
    asked_format,
    odd_format,
    request_of,
    weight_spec_of,
    without_turns,
)
from qcompile.observers import default_method
from qcompile.passes.normalise.recurrent_scans import PART_OF
from qcompile.plan import RECURRENT_OPS, NodePlan, Plan
from qcompile.plan_timesteps import plan_timesteps
from qcompile.poles import keep_float_at_poles
from qcompile.products import odd_groups, weight_of
from qcompile.recipe import Preset, Recipe, Rule
from qcompile.recurrent import origin, plan_recurrent, recurrent_notes, rule_for, why_left
from qcompile.shared_weights import agree_on_shared_weights
from qcompile.softmax_choice import plan_softmax, softmax_problems
from qcompile.sparsity import sparsify
from qcompile.spread import spread_activations
from qcompile.targets.target import Target
from qcompile.weighted import (
    FLOAT_OPS,
    carried_weights,
    channel_spec,
    edge_nodes,
    held_elements,
    inside_other_graphs,
    is_weighted,
    left_weight,
    not_codable,
    nothing_to_quantize,
)
from qcompile.widen import widen

NO_RANGES = "nothing calibrates static activations inside them"
METHOD_NOTE = (
    "ranges of activations come from --calibration-method mse below 8 bits, else from minmax"
)


def annotate(model: ir.Model, recipe: Recipe, target: Target, *, has_data: bool) -> Plan:
    """The plan for a normalised model.

    InputError when nothing can be quantized or the recipe asks the impossible, all of it at once.
    """
    preset: Preset | None
    preset, notes = choose_preset(recipe, has_data=has_data)
    imported = plan_imported(model.graph, recipe, target)
    bodies = closed_bodies(model).values()
    inside = any(plan_imported(body.graph, recipe, target) for body in bodies)
    if (imported or inside) and recipe.preset is None:
        preset, notes = None, ["no preset was given: the model's own codes are kept"]
    notes += model.meta.get("notes", [])
    nodes, problems = _plan_graph(model.graph, recipe, preset, target, set(imported))
    problems += problems_of(recipe, preset, target) + softmax_problems(recipe, preset, target)
    inner, more, why = _plan_bodies(model, recipe, preset, target)
    if problems := [p for p in (*problems, *more) if p]:
        raise InputError("\n".join(problems))
    nodes |= imported | inner
    notes += why
    if not any(p.is_quantized for p in nodes.values()):
        raise InputError(nothing_to_quantize(nodes))
    activations = [p.activation for p in nodes.values() if p.activation]
    notes += [target.integer_note] if target.integer_note and activations else []
    if target.dynamic_note and any(a.is_dynamic for a in activations):
        notes.append(target.dynamic_note)
    notes += recurrent_notes(nodes)
    notes += rules_about_nothing(model.graph, nodes, recipe)
    if preset is None:
        plan = Plan(AS_THE_MODEL_SAYS, target.name, nodes, notes=tuple(notes))
        return plan_timesteps(model.graph, plan, recipe, target, has_data=has_data)
    plan = Plan(preset.name, target.name, nodes, notes=tuple(notes))
    plan = replace(plan, is_integer_only=recipe.integer_only)
    if not plan.is_integer_only:
        plan = keep_float_at_poles(model.graph, plan)
        if not any(p.is_quantized for p in plan.nodes.values()):
            raise InputError(nothing_to_quantize(plan.nodes))
    plan = spread_activations(model.graph, plan, target, has_data=has_data)
    plan = plan_attention(model.graph, plan, recipe, preset, target)
    if recipe.activation_format is None:
        plan = widen(model.graph, plan, preset)
    plan = sparsify(model.graph, plan, recipe, target)
    plan = plan_timesteps(model.graph, plan, recipe, target, has_data=has_data)
    plan = plan_softmax(model.graph, plan, recipe, has_data=has_data)
    plan = _with_origin(plan, recipe, has_data=has_data)
    return check_plan(plan, model.graph, target, recipe)


def _plan_graph(
    graph: ir.Graph,
    recipe: Recipe,
    preset: Preset | None,
    target: Target,
    imported: set[str],
    *,
    has_edges: bool = True,
) -> tuple[dict[str, NodePlan], list[str]]:
    """The weighted nodes of one graph, and what is asked of them and impossible."""
    weighted = [n for n in graph if n.name not in imported and is_weighted(n)]
    edges = edge_nodes(graph, weighted) if has_edges else set()
    nodes: dict[str, NodePlan] = {}
    problems = []
    for node in weighted:
        found = _plan_node(node, recipe, preset, target, is_edge=node in edges)
        if found.rule.startswith("!"):
            problems.append(found.reason)
        nodes[found.node] = found
    nodes = agree_on_shared_weights(nodes, weighted, target)
    planned = [(n, nodes[n.name or ""].weight) for n in weighted]
    problems += [not_codable(n, spec.scale_format) for n, spec in planned if spec is not None]
    return nodes, problems


def _plan_bodies(
    model: ir.Model, recipe: Recipe, preset: Preset | None, target: Target
) -> tuple[dict[str, NodePlan], list[str], list[str]]:
    """Nodes, problems and notes of the bodies of If, Loop and Scan, which have no static codes."""
    inner = without_turns(recipe.inside_bodies())
    inside = preset if preset is None else preset.inside_bodies()
    nodes: dict[str, NodePlan] = {}
    problems: list[str] = []
    for body in closed_bodies(model).values():
        imported = plan_imported(body.graph, recipe, target)
        found, wrong = _plan_graph(
            body.graph, inner, inside, target, set(imported), has_edges=False
        )
        nodes |= found | imported
        problems += wrong
    for graph in compiled_graphs(model):
        nodes |= inside_other_graphs(graph)
    for each in all_bodies(model.graph):
        nodes |= carried_weights(each)
    is_static = preset is not None and inside is not preset
    if not is_static or not any(p.is_quantized for p in nodes.values()):
        return nodes, problems, []
    assert inside is not None
    return nodes, problems, [f"the bodies of If, Loop and Scan have {inside.name}: {NO_RANGES}"]


def choose_preset(recipe: Recipe, *, has_data: bool) -> tuple[Preset, list[str]]:
    """The recipe's preset; without one w8a8, or w8a8-dynamic where there is no calibration data."""
    if recipe.preset is None:
        name = "w8a8" if has_data else "w8a8-dynamic"
        why = "calibration data was given" if has_data else "no calibration data was given"
        return Preset.parse(name), [f"preset {name} was chosen because {why}"]
    return Preset.parse(recipe.preset), []


def _with_origin(plan: Plan, recipe: Recipe, *, has_data: bool) -> Plan:
    """The plan, which says where the ranges of its static activations come from."""
    if not plan.leaders:
        return plan
    if has_data:
        methods = {default_method(spec.format) for spec in plan.activations.values()}
        is_told = recipe.calibration_method is None and methods - {"minmax"}
        notes = (*plan.notes, *[METHOD_NOTE] * bool(is_told))
        return replace(plan, ranges_from="calibration data", notes=notes)
    return replace(plan, ranges_from=BATCH_NORM, notes=(*plan.notes, BATCH_NORM_NOTE))


def _plan_node(
    node: ir.Node, recipe: Recipe, preset: Preset | None, target: Target, *, is_edge: bool
) -> NodePlan:
    """One node's specs or its reason.

    `rule` names what decided, with "!" before it where the recipe cannot be met.
    """
    weight = weight_of(node)
    held = weight or left_weight(node)
    name = held.name or "" if held is not None else ""
    plan = NodePlan(node.name or "", node.op_type, name, held_elements(node))
    if PART_OF in node.metadata_props:
        plan = replace(plan, part_of=origin(node))
    rule = rule_for(node, recipe)
    source = rule.source if rule is not None else f"preset {preset.name if preset else 'none'}"
    reason = _why_not(node, weight, recipe, rule)
    if reason:
        return replace(plan, reason=reason, rule=source)
    if rule is not None and rule.preset is not None:
        preset = Preset.parse(rule.preset)
    if preset is None:
        return replace(plan, reason=FLOAT_IN_THE_MODEL, rule=AS_THE_MODEL_SAYS)
    if is_op(node, *RECURRENT_OPS):
        return plan_recurrent(replace(plan, rule=source), node, preset, rule)
    asked = asked_format(node, recipe, rule)
    bits = preset.weight_bits
    if (
        is_edge
        and asked is None
        and (rule is None or rule.preset is None)
        and bits < recipe.edge_bits
    ):
        bits, source = recipe.edge_bits, f"--edge-bits {recipe.edge_bits}"
    block_size = (rule.block_size if rule else None) or recipe.block_size
    activation = activation_spec_of(node, preset, recipe)
    is_by_channel = rule is not None and rule.activation_granularity == "axis"
    if is_by_channel:
        activation, refusal = channel_spec(node, activation)
        if refusal is not None:
            message = f'{node.op_type} "{node.name}": {refusal} ({source})'
            return replace(plan, reason=message, rule=f"!{source}")
    wider = target.weight_bits(node.op_type, bits, activation)
    if asked is None and wider != bits:
        why = f"target {target.name} has no {node.op_type} of {bits} bits here"
        bits, source = wider, f"{source}; {why}: {wider}"
    weight_spec = weight_spec_of(node, bits, preset.activation, asked, block_size)
    refusal = odd_format(node, asked) or target.refuse(request_of(node, weight_spec, activation))
    if refusal is not None:
        plain = weight_spec_of(node, wider, preset.activation, None, None)
        is_wrong = target.refuse(request_of(node, plain, activation)) is None  # what was asked for
        is_by_rule = rule is not None and bool(rule.weight_format or rule.block_size)
        is_explicit = is_by_channel or is_by_rule or (is_wrong and bool(asked or block_size))
        message = f'{node.op_type} "{node.name}": {refusal} ({source})'
        return replace(
            plan, reason=message if is_explicit else refusal, rule="!" * is_explicit + source
        )
    return replace(plan, weight=weight_spec, activation=activation, rule=source)


def _why_not(
    node: ir.Node, weight: ir.Value | None, recipe: Recipe, rule: Rule | None
) -> str | None:
    """What keeps the node in float whatever the target, or None."""
    left = why_left(node, recipe, rule)
    if left is not None:
        return left
    if node.op_type in FLOAT_OPS:
        return FLOAT_OPS[node.op_type]
    if weight is None and left_weight(node) is not None:
        return "its weight is the left operand"
    if weight is None:
        return "its weight is computed at run time"
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weight is {weight.dtype}; float32 is supported"
    dims = static_shape(weight)
    if dims is None or 0 in dims:
        return f"its weight has the shape {weight.shape}"
    if is_op(node, "Conv") and len(dims) != 4:
        return f"it is a {len(dims) - 2}-D convolution; 2-D has kernels"
    if odd := odd_groups(node, dims[0]):
        return odd
    if is_op(node, "MatMul", "Gemm") and len(dims) != 2:
        return f"its weight has {len(dims)} dimensions; a matrix has 2"
    if is_op(node, "MatMul") and node.inputs[0] is not None and is_constant(node.inputs[0]):
        return "its activation is constant"
    if is_op(node, "Conv") and attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"auto_pad {attribute(node, 'auto_pad')} depends on the input's size"
    bias = input_of(node, 2) if is_op(node, "Conv", "Gemm") else None
    if bias is not None and (not is_constant(bias) or static_shape(bias) != (dims[0],)):
        return f"its bias {bias.name} is no constant vector of {dims[0]}"
    return None
