# SPDX-License-Identifier: Apache-2.0
"""annotate: for every value a QuantSpec or the reason why not; all legality errors at once."""

from dataclasses import replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.errors import InputError
from qcompile.graph import attribute, input_of, is_constant, is_op, static_shape
from qcompile.imported_plan import AS_THE_MODEL_SAYS, FLOAT_IN_THE_MODEL, plan_imported
from qcompile.plan import NodePlan, Plan
from qcompile.products import odd_groups, weight_of
from qcompile.recipe import Preset, Recipe, Rule
from qcompile.recurrent import plan_recurrent, recurrent_notes
from qcompile.spec import QuantSpec
from qcompile.spread import spread_activations
from qcompile.targets.target import Request, Target
from qcompile.weighted import (
    FLOAT_OPS,
    edge_nodes,
    held_elements,
    inside_subgraphs,
    is_weighted,
    left_weight,
    not_codable,
)

BLOCK_SIZE = 32


def annotate(model: ir.Model, recipe: Recipe, target: Target, *, has_data: bool) -> Plan:
    """The plan for a normalised model.

    InputError when nothing can be quantized or the recipe asks the impossible, all of it at once.
    """
    preset: Preset | None
    preset, notes = choose_preset(recipe, has_data=has_data)
    imported = plan_imported(model.graph, recipe, target)
    if imported and recipe.preset is None:
        preset, notes = None, ["no preset was given: the model's own codes are kept"]
    notes += model.meta.get("notes", [])
    weighted = [n for n in model.graph if n.name not in imported and is_weighted(n)]
    edges = edge_nodes(model.graph, weighted)
    nodes: dict[str, NodePlan] = {}
    problems = _missing_data(recipe, has_data=has_data)
    for node in weighted:
        found = _plan_node(node, recipe, preset, target, is_edge=node in edges)
        if found.rule.startswith("!"):
            problems.append(found.reason)
        nodes[found.node] = found
    nodes = _agree_on_shared_weights(nodes, weighted, target)
    planned = [(n, nodes[n.name or ""].weight) for n in weighted]
    problems += [not_codable(n, spec.scale_format) for n, spec in planned if spec is not None]
    if problems := [p for p in problems if p]:
        raise InputError("\n".join(problems))
    nodes |= imported | inside_subgraphs(model.graph)
    if not any(p.is_quantized for p in nodes.values()):
        raise InputError(nothing_to_quantize(nodes))
    activations = [p.activation for p in nodes.values() if p.activation]
    notes += [target.integer_note] if target.integer_note and activations else []
    if target.dynamic_note and any(a.is_dynamic for a in activations):
        notes.append(target.dynamic_note)
    notes += recurrent_notes(nodes)
    notes += [
        f'{r.source}: "{r.match}" is about no weighted node of the model'
        for r in recipe.rules
        if not any(r.covers(p.node, p.op_type) for p in nodes.values())
    ]
    if preset is None:
        return Plan(AS_THE_MODEL_SAYS, target.name, nodes, notes=tuple(notes))
    plan = Plan(preset.name, target.name, nodes, notes=tuple(notes))
    return spread_activations(model.graph, plan, gives_floats=target.gives_floats)


def choose_preset(recipe: Recipe, *, has_data: bool) -> tuple[Preset, list[str]]:
    """The recipe's preset; without one w8a8, or w8a8-dynamic where there is no calibration data."""
    if recipe.preset is None:
        name = "w8a8" if has_data else "w8a8-dynamic"
        why = "calibration data was given" if has_data else "no calibration data was given"
        return Preset.parse(name), [f"preset {name} was chosen because {why}"]
    preset = Preset.parse(recipe.preset)
    if preset.activation == "static" and not has_data:
        raise InputError(
            f"preset {preset.name} has static activations, whose ranges need calibration data: "
            f"give --calibration-data, or use --preset w{preset.weight_bits}a8-dynamic"
        )
    return preset, []


def nothing_to_quantize(nodes: dict[str, NodePlan]) -> str:
    """The message when no node of the model can be quantized."""
    if not nodes:
        return (
            "nothing to quantize: the model has no Conv, MatMul or Gemm with a constant weight "
            "(qcompile quantizes weights that are stored in the file)"
        )
    lines = [f"  {p.op_type} {p.node}: {p.reason}" for p in list(nodes.values())[:8]]
    more = f"\n  and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return "nothing to quantize: every weighted node stays in float\n" + "\n".join(lines) + more


def _missing_data(recipe: Recipe, *, has_data: bool) -> list[str]:
    """Rules whose presets need calibration data when there is none."""
    if has_data:
        return []
    return [
        f"preset {r.preset} has static activations, whose ranges need calibration data: "
        f"give --calibration-data ({r.source})"
        for r in recipe.rules
        if r.preset is not None and Preset.parse(r.preset).activation == "static"
    ]


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
    rule = _rule_for(node, recipe)
    source = rule.source if rule is not None else f"preset {preset.name if preset else 'none'}"
    reason = _why_not(node, weight, recipe, rule)
    if reason:
        return replace(plan, reason=reason, rule=source)
    if rule is not None and rule.preset is not None:
        preset = Preset.parse(rule.preset)
    if preset is None:
        return replace(plan, reason=FLOAT_IN_THE_MODEL, rule=AS_THE_MODEL_SAYS)
    if is_op(node, "LSTM"):
        return plan_recurrent(replace(plan, rule=source), node, preset, rule)
    asked = (rule.weight_format if rule else None) or recipe.weight_format
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
    wider = target.weight_bits(node.op_type, bits, activation)
    if asked is None and wider != bits:
        why = f"target {target.name} has no {node.op_type} of {bits} bits here"
        bits, source = wider, f"{source}; {why}: {wider}"
    weight_spec = weight_spec_of(node, bits, preset.activation, asked, block_size)
    request = request_of(node, weight_spec, activation)
    refusal = target.refuse(request)
    if refusal is not None:
        is_explicit = asked is not None or block_size is not None
        message = f'{node.op_type} "{node.name}": {refusal} ({source})'
        return replace(
            plan, reason=message if is_explicit else refusal, rule="!" * is_explicit + source
        )
    return replace(plan, weight=weight_spec, activation=activation, rule=source)


def _rule_for(node: ir.Node, recipe: Recipe) -> Rule | None:
    found = [r for r in recipe.rules if r.covers(node.name or "", node.op_type)]
    return found[-1] if found else None


def _why_not(
    node: ir.Node, weight: ir.Value | None, recipe: Recipe, rule: Rule | None
) -> str | None:
    """What keeps the node in float whatever the target, or None."""
    if rule is not None and rule.exclude:
        return f"excluded by {rule.source}"
    if recipe.op_types_to_quantize and node.op_type not in recipe.op_types_to_quantize:
        return f"{node.op_type} is not among --op-types-to-quantize"
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


def weight_spec_of(
    node: ir.Node, bits: int, activation: str, asked: str | None, block_size: int | None
) -> QuantSpec:
    """Conv and static products: one symmetric scale an output.

    Others below 8 bits: blocks of 32 with f16 scales and zero points. One bit means ±1 (`binary`),
    because int1 has only 0 and −1.
    """
    by_output = is_op(node, "Conv") or activation == "static"
    blocked = not by_output and (bits < 8 or block_size is not None)
    if asked is not None:
        chosen = formats.get(asked)
        blocked = not by_output and (chosen.bits < 8 or block_size is not None)
        symmetric = chosen.is_signed
    elif bits == 1:
        chosen, symmetric = formats.get("binary"), True
    else:
        symmetric = not blocked or bits == 8
        chosen = formats.get(f"{'int' if symmetric else 'uint'}{bits}")
    if blocked or (block_size is not None and not is_op(node, "Conv")):
        return QuantSpec(chosen, "block", 1, block_size or BLOCK_SIZE, symmetric, "f16")
    return QuantSpec(chosen, "axis", 0, is_symmetric=symmetric)


def activation_spec_of(node: ir.Node, preset: Preset, recipe: Recipe) -> QuantSpec | None:
    """The spec of the node's input; a gathered table has none."""
    if is_op(node, "Gather") or preset.activation == "float":
        return None
    if preset.activation == "dynamic":
        granularity = "sample" if is_op(node, "Conv") else "row"
        return QuantSpec(formats.get(f"int{preset.activation_bits}"), granularity)
    return static_spec(preset, recipe)


def static_spec(preset: Preset, recipe: Recipe) -> QuantSpec:
    """Static activations: unsigned, one scale a tensor, with a zero point."""
    chosen = formats.get(recipe.activation_format or f"uint{preset.activation_bits}")
    if chosen.is_table or chosen.is_signed:
        raise InputError(f"static activations are unsigned integers; {chosen} was asked: use uint8")
    return QuantSpec(chosen, "tensor", is_symmetric=False)


def request_of(node: ir.Node, weight: QuantSpec, activation: QuantSpec | None) -> Request:
    """The node as a target sees it."""
    value = weight_of(node)
    dims = static_shape(value) if value is not None else None
    assert dims is not None
    group = int(attribute(node, "group", 1)) if is_op(node, "Conv") else 1
    k = 1
    for size in dims[2 if is_op(node, "LSTM") else 1 :]:
        k *= size
    depthwise = is_op(node, "Conv") and group > 1 and dims[1] == 1 and dims[0] == group
    return Request(node.op_type, weight, activation, k, group, depthwise)


def _agree_on_shared_weights(
    nodes: dict[str, NodePlan], weighted: list[ir.Node], target: Target
) -> dict[str, NodePlan]:
    """Nodes that share one weight store it once: one spec that all can run, or all stay float."""
    readers: dict[str, list[NodePlan]] = {}
    for plan in nodes.values():
        if plan.weight_name:
            readers.setdefault(plan.weight_name, []).append(plan)
    by_name = {n.name or "": n for n in weighted}
    out = dict(nodes)
    for plans in readers.values():
        if len(plans) < 2:
            continue
        left = next((p for p in plans if not p.is_quantized), None)
        shared = None if left is not None else _shared_spec(plans, by_name, target)
        for plan in plans:
            if left is not None and plan.is_quantized:
                why = f"it shares its weight with {left.node}, which stays float: {left.reason}"
                out[plan.node] = replace(plan, weight=None, activation=None, reason=why)
            elif left is None and shared is None:
                others = ", ".join(p.node for p in plans if p is not plan)
                why = f"it shares its weight with {others}, and no weight format fits all"
                out[plan.node] = replace(plan, weight=None, activation=None, reason=why)
            elif left is None:
                out[plan.node] = replace(plan, weight=shared)
    return out


def _shared_spec(
    plans: list[NodePlan], by_name: dict[str, ir.Node], target: Target
) -> QuantSpec | None:
    """The first product's spec that every reader can run, else any other reader's, else None."""
    products = [p for p in plans if p.op_type != "Gather"]
    for spec in dict.fromkeys(p.weight for p in [*products, *plans]):
        assert spec is not None
        requests = [request_of(by_name[p.node], spec, p.activation) for p in plans]
        if not any(target.refuse(request) for request in requests):
            return spec
    return None
