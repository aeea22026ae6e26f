# SPDX-License-Identifier: Apache-2.0
"""Weights that several nodes read: stored once, in a spec that all of them can run."""

from dataclasses import replace

import onnx_ir as ir

from qcompile.node_specs import request_of
from qcompile.plan import NodePlan
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target


def agree_on_shared_weights(
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
