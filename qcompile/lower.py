# SPDX-License-Identifier: Apache-2.0
"""lower: the QDQ graph in the target's ops."""

import onnx_ir as ir

from qcompile.bodies import nodes_of
from qcompile.dynamic_attention import mark
from qcompile.errors import QcompileError
from qcompile.graph import attribute
from qcompile.integer_only import check_integer_only
from qcompile.plan import Plan
from qcompile.softmax_choice import mark_softmax
from qcompile.stage import Inspector, run_passes
from qcompile.targets.target import Target


def lower(
    quantized: ir.Model, plan: Plan, target: Target, inspect: Inspector | None = None
) -> ir.Model:
    """A lowered copy.

    Every node of the plan must be lowered; one that is not is a bug, and is named with the reasons.
    """
    passes = target.lower_integer() if plan.is_integer_only else target.lower()  # type: ignore[misc]
    marked = mark_softmax(mark(quantized.clone(), plan), plan)
    lowered = run_passes(marked, "lower", passes, inspect)
    left = {n.name for n in nodes_of(lowered) if n.domain in ("", "ai.onnx")}
    missed = [p.node for p in plan.nodes.values() if p.is_quantized and p.node in left]
    if missed and target.packs:
        reasons = [r for each in passes for r in getattr(each, "refusals", []) if r.node in missed]
        why = "; ".join(f"{r.node}: {r.reason}" for r in reasons) or "no pass matched"
        raise QcompileError(f"target {target.name} did not lower {', '.join(missed)} ({why})")
    formed = {n.name for n in nodes_of(lowered) if attribute(n, "softmax_format") is not None}
    if unformed := sorted(set(plan.softmax) - formed):
        raise QcompileError(f"target {target.name} did not give {', '.join(unformed)} its softmax")
    if plan.is_integer_only:
        check_integer_only(lowered, plan)
    return lowered
