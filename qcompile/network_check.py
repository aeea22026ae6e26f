# SPDX-License-Identifier: Apache-2.0
"""What is refused before any slow work: nodes without an integer form, or without a kernel."""

import onnx_ir as ir

from qcompile.errors import InputError
from qcompile.graph import attribute, is_op
from qcompile.integer_only import FLOATS, Culprit, message_of, plan_culprits
from qcompile.network_places import misplaced
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.targets.target import Target
from qcompile.to_integer_graph import CURE, why_no_kernel


def check_plan(plan: Plan, graph: ir.Graph, target: Target, recipe: Recipe) -> Plan:
    """The plan; InputError with every node that has no integer form or no kernel of the target."""
    found = plan_culprits(plan)
    if target.compiler is None:
        if found:
            raise InputError(message_of(found))
        return plan
    first = {c.node: c for c in reversed([*_network_culprits(graph), *found])}
    if first:
        places = {node.name or "": i for i, node in enumerate(graph)}
        ordered = sorted(first.values(), key=lambda c: places.get(c.node, -1))
        raise InputError(message_of(ordered, f"target {target.name}: {{}} without a kernel", CURE))
    batch_of(graph, recipe)
    return plan


def _network_culprits(graph: ir.Graph) -> list[Culprit]:
    """What the normalised graph has and no kernel takes: its borders, operators and places."""
    found = []
    for what, values in (("input", graph.inputs), ("output", graph.outputs)):
        if len(values) != 1:
            names = ", ".join(v.name or "" for v in values)
            found.append(Culprit(names, f"{len(values)} {what}s", f"one {what} is possible"))
    for node in graph:
        gives_floats = any(v.dtype in FLOATS for v in node.outputs)
        reason = _why_not(node) if gives_floats and not is_op(node, "Constant") else None
        if reason is not None:
            found.append(Culprit(node.name or "", node.op_type, reason))
    return found + misplaced(graph, [culprit.node for culprit in found])


def _why_not(node: ir.Node) -> str | None:
    """What the node and the size of its input say."""
    source = node.inputs[0] if node.inputs else None
    dims = None if source is None or source.shape is None else tuple(source.shape)[2:]
    kernel = tuple(attribute(node, "kernel_shape", ()))
    is_known = dims is not None and all(isinstance(d, int) for d in dims)
    is_partial = kernel != dims or any(attribute(node, "pads", ()))
    if is_op(node, "AveragePool") and is_known and is_partial:
        return f"the average of {kernel} in {dims}: whole maps have a kernel"
    return why_no_kernel(node)


def batch_of(graph: ir.Graph, recipe: Recipe) -> int:
    """Samples a call: what the recipe says, else the model's own number, else 1."""
    found = graph.inputs[0].shape
    own = found[0] if found is not None and len(found) and isinstance(found[0], int) else None
    if own is not None and recipe.batch not in (None, own):
        raise InputError(f"--batch {recipe.batch}: the model's own batch is {own}: leave it out")
    return own or recipe.batch or 1
