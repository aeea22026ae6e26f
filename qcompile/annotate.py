# SPDX-License-Identifier: Apache-2.0
"""annotate: decide for every value a QuantSpec or the reason why not; all legality errors at once."""

from dataclasses import replace

import onnx_ir as ir

import qcompile.formats as formats
from qcompile.errors import InputError
from qcompile.graph import attribute, input_of, is_constant, is_op, rank, static_shape
from qcompile.plan import WEIGHTED_OPS, NodePlan, Plan
from qcompile.products import weight_of
from qcompile.recipe import Preset, Recipe, Rule
from qcompile.spec import QuantSpec
from qcompile.spread import spread_activations
from qcompile.targets.target import Request, Target

BLOCK_SIZE = 32


def annotate(model: ir.Model, recipe: Recipe, target: Target, *, has_data: bool) -> Plan:
    """The plan for a normalised model. InputError when nothing can be quantized or the recipe asks the impossible."""
    preset, notes = choose_preset(recipe, has_data=has_data)
    weighted = [n for n in model.graph if _is_weighted(n)]
    edges = edge_nodes(model.graph, weighted)
    nodes, problems = {}, []
    for node in weighted:
        plan = _plan_node(node, recipe, preset, target, is_edge=node in edges)
        if plan.rule.startswith("!"):
            problems.append(plan.reason)
        nodes[plan.node] = plan
    nodes = _agree_on_shared_weights(nodes)
    if problems:
        raise InputError("\n".join(problems))
    if not any(p.is_quantized for p in nodes.values()):
        raise InputError(nothing_to_quantize(nodes))
    if target.dynamic_note and any(p.activation and p.activation.is_dynamic for p in nodes.values()):
        notes.append(target.dynamic_note)
    plan = Plan(preset.name, target.name, nodes, notes=tuple(notes))
    return spread_activations(model.graph, plan, preset, recipe)


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


def _is_weighted(node: ir.Node) -> bool:
    if not is_op(node, *WEIGHTED_OPS):
        return False
    weight = weight_of(node)
    if weight is None:
        return is_op(node, "Conv")
    floats = weight.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    if is_op(node, "Gather"):
        return floats and rank(weight) == 2 and attribute(node, "axis", 0) == 0
    return floats


def edge_nodes(graph: ir.Graph, weighted: list[ir.Node]) -> set[ir.Node]:
    """The first and last weighted node of every path from an input to an output."""
    chosen, edges = set(weighted), set()
    above: dict[ir.Node, bool] = {}
    for node in graph:
        seen = any(above[p] or p in chosen for p in node.predecessors() if p in above)
        above[node] = seen
        if node in chosen and not seen:
            edges.add(node)
    below: dict[ir.Node, bool] = {}
    for node in reversed(list(graph)):
        seen = any(below[s] or s in chosen for s in node.successors() if s in below)
        below[node] = seen
        if node in chosen and not seen:
            edges.add(node)
    return edges


def _plan_node(
    node: ir.Node, recipe: Recipe, preset: Preset, target: Target, *, is_edge: bool
) -> NodePlan:
    """One node's specs or its reason; `rule` names what decided, with "!" where the recipe cannot be met."""
    weight = weight_of(node)
    count = 0
    if weight is not None and (shape := static_shape(weight)) is not None:
        count = 1
        for size in shape:
            count *= size
    plan = NodePlan(
        node.name or "", node.op_type, weight.name or "" if weight is not None else "", count
    )
    rule = _rule_for(node, recipe)
    source = rule.source if rule is not None else f"preset {preset.name}"
    reason = _why_not(node, weight, recipe, rule)
    if reason:
        return replace(plan, reason=reason, rule=source)
    if rule is not None and rule.preset is not None:
        preset = Preset.parse(rule.preset)
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
    if asked is None and bits < target.narrowest.get(node.op_type, 1):
        bits = target.narrowest[node.op_type]
        source = f"{source}; target {target.name} has no {node.op_type} below {bits} bits"
    weight_spec = weight_spec_of(node, bits, preset.activation, asked, block_size)
    activation = activation_spec_of(node, preset, recipe)
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
    if weight is None:
        return "its weight is computed at run time"
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weight is {weight.dtype}; float32 is supported"
    dims = static_shape(weight)
    if dims is None or 0 in dims:
        return f"its weight has the shape {weight.shape}"
    if is_op(node, "Conv") and len(dims) != 4:
        return f"it is a {len(dims) - 2}-D convolution; 2-D has kernels"
    if is_op(node, "MatMul", "Gemm") and len(dims) != 2:
        return f"its weight has {len(dims)} dimensions; a matrix has 2"
    if is_op(node, "MatMul") and node.inputs[0] is not None and is_constant(node.inputs[0]):
        return "its activation is constant"
    if is_op(node, "Conv") and attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"auto_pad {attribute(node, 'auto_pad')} depends on the input's size"
    if is_op(node, "Gemm"):
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        if not plain or attribute(node, "transA", 0) or not attribute(node, "transB", 0):
            return "Gemm with alpha, beta or transA"
    bias = input_of(node, 2) if is_op(node, "Conv", "Gemm") else None
    if bias is not None and (not is_constant(bias) or static_shape(bias) != (dims[0],)):
        return f"its bias {bias.name} is no constant vector of {dims[0]}"
    return None


def weight_spec_of(
    node: ir.Node, bits: int, activation: str, asked: str | None, block_size: int | None
) -> QuantSpec:
    """Conv and static products: one symmetric scale an output. Others below 8 bits: blocks of 32 with f16 scales and zero points.

    One bit means ±1 (`binary`), because int1 has only 0 and −1.
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
    for size in dims[1:]:
        k *= size
    depthwise = is_op(node, "Conv") and group > 1 and dims[1] == 1 and dims[0] == group
    return Request(node.op_type, weight, activation, k, group, depthwise)


def _agree_on_shared_weights(nodes: dict[str, NodePlan]) -> dict[str, NodePlan]:
    """Nodes that share one weight store it once: all take the spec of the first product, or all stay float."""
    readers: dict[str, list[NodePlan]] = {}
    for plan in nodes.values():
        readers.setdefault(plan.weight_name, []).append(plan)
    out = dict(nodes)
    for name, plans in readers.items():
        if len(plans) < 2 or not name:
            continue
        left = next((p for p in plans if not p.is_quantized), None)
        chosen = next((p for p in plans if p.op_type != "Gather"), plans[0])
        for plan in plans:
            if left is not None and plan.is_quantized:
                reason = f"it shares its weight with {left.node}, which stays float: {left.reason}"
                out[plan.node] = replace(plan, weight=None, activation=None, reason=reason)
            elif left is None:
                out[plan.node] = replace(plan, weight=chosen.weight)
    return out
