# SPDX-License-Identifier: Apache-2.0
"""Find inputs of static products whose first token is far larger than the others.

One scale for all tokens is then far too wide for the others (the first token of a text: MixDQ,
Zhao et al. 2024, section 3.2). Token 0 gets a product and a scale of its own (token_parts.py) where
the products' outputs are nearer for it, token by token, on samples that chose no range. Dynamic
activations have a scale for every token already. A token that is far smaller stays: a ViT whose
class token is (w4a4) gained 0.6 dB and no top-1, for 5 % more time.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qcompile.annotate import annotate
from qcompile.data import Data
from qcompile.division import Division
from qcompile.first_row import constant_first_row
from qcompile.graph import is_op, rank
from qcompile.plan import Plan
from qcompile.products import fused_end
from qcompile.recipe import Recipe
from qcompile.rotate import ENOUGH_DB, IN_CODES, WITH_DATA
from qcompile.rotation_candidates import ONLINE_GAIN, judged
from qcompile.rotation_error import shape_of
from qcompile.rotation_rows import Figures, RotationRow
from qcompile.spec import QuantSpec
from qcompile.targets.target import Target
from qcompile.token_parts import Divided, split_first
from qcompile.token_samples import FACTOR, Seen, collect, decibels, token_error, wide

KIND, APART, FOLDED = "token 0", "token 0 apart", "token 0 apart, a constant"
INTEGER = "an integer-only network has no float values to split"


@dataclass(frozen=True)
class Split:
    """The model, changed or as it was, its plan, and what was decided."""

    model: ir.Model
    plan: Plan
    rows: tuple[RotationRow, ...]


def split_token(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    target: Target,
    data: Data | None,
    division: Division,
) -> Split:
    """The normalised model with token 0 apart where that helps, and the plan for it.

    The model that was given stays as it is. Nothing is split without data, with rotation "off", or
    in a model that holds codes already.
    """
    inputs = token_inputs(model.graph, plan)
    if not inputs or recipe.rotation == "off" or data is None:
        return Split(model, plan, ())
    if why := _refusal(plan):
        return Split(model, plan, (replace(_about(inputs), reason=why),))
    seen = collect(model, _specs(inputs, plan), data, division, recipe)
    far = {name: nodes for name, nodes in inputs.items() if seen[name].is_far}
    near = {name: nodes for name, nodes in inputs.items() if name not in far}
    rows = [_decide(name, nodes, seen[name], plan, recipe) for name, nodes in far.items()]
    found, plan, rows = apart(model, plan, recipe, target, rows, seen)
    if near:
        rows.append(replace(_about(near), reason=_factors([seen[name] for name in near])))
    return Split(found, plan, tuple(rows))


def planned_split(model: ir.Model, plan: Plan, recipe: Recipe) -> tuple[RotationRow, ...]:
    """What a compilation with data would look at."""
    inputs = token_inputs(model.graph, plan)
    if not inputs or recipe.rotation == "off":
        return ()
    return (replace(_about(inputs), reason=_refusal(plan) or WITH_DATA),)


def token_inputs(graph: ir.Graph, plan: Plan) -> dict[str, list[ir.Node]]:
    """Inputs [..., tokens, K] with one scale → the products that read them."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        planned = plan.nodes.get(node.name or "")
        spec = planned.activation if planned is not None and planned.is_rounded else None
        value = node.inputs[0] if node.inputs else None
        if spec is None or value is None or spec.granularity != "tensor":
            continue
        is_row = (
            is_op(node, "MatMul")
            and (rank(value) or 0) >= 3
            and rank(value) == rank(fused_end(node))
        )
        if is_row and value.shape is not None and value.shape[-2] not in (0, 1):
            found.setdefault(value.name or "", []).append(node)
    return found


def _specs(inputs: dict[str, list[ir.Node]], plan: Plan) -> dict[str, QuantSpec]:
    """What is looked at: the inputs, and what their products give, as codes of the same kind."""
    found: dict[str, QuantSpec] = {}
    for name, nodes in inputs.items():
        spec = plan.nodes[nodes[0].name or ""].activation
        assert spec is not None
        found[name] = spec
        found |= {fused_end(n).name or "": replace(spec, format=wide(spec).format) for n in nodes}
    return found


def _refusal(plan: Plan) -> str:
    if any(p.is_imported for p in plan.nodes.values()):
        return IN_CODES
    return INTEGER if plan.is_integer_only else ""


def _about(inputs: dict[str, list[ir.Node]]) -> RotationRow:
    """One row for all of them."""
    names = tuple(n.name or "" for nodes in inputs.values() for n in nodes)
    what = next(iter(inputs)) if len(inputs) == 1 else f"{len(inputs)} inputs"
    return RotationRow(what, KIND, names)


def _factors(seen: list[Seen]) -> str:
    low, high = (f([s.factor for s in seen]) for f in (min, max))
    how = f"{low:.2g}" if len(seen) == 1 else f"{low:.2g} to {high:.2g}"
    what = f"its largest value is {how} times that of the other tokens"
    return f"{what}; {FACTOR:g} times is asked"


def _decide(name: str, nodes: list[ir.Node], seen: Seen, plan: Plan, recipe: Recipe) -> RotationRow:
    """The row of an input that is far: measured, and applied where enough of the error goes."""
    names = tuple(n.name or "" for n in nodes)
    rows = [part.held() for part in (seen.first, seen.others)]
    size = rows[0].shape[1]
    row = RotationRow(name, KIND, names, APART, size)
    planned = [(n, plan.nodes[n.name or ""]) for n in nodes]
    spec = planned[0][1].activation
    assert spec is not None
    whole, others = (part.range(spec) for part in (seen.both, seen.others))
    first = seen.first.range(wide(spec))
    tokens = float(np.mean(seen.tokens))
    shape = shape_of(np.concatenate(rows))
    before, after = (
        float(np.mean([token_error(n, p, rows, pair, tokens, recipe) for n, p in planned]))
        for pair in ((whole, whole), (first, others))
    )
    row = replace(row, before=Figures(decibels(before), *shape))
    if decibels(before) >= ENOUGH_DB:
        why = f"its products have {decibels(before):.1f} dB; {ENOUGH_DB:g} are enough"
        return replace(row, reason=f"{_times(seen)}, but {why}")
    row = judged(replace(row, after=Figures(decibels(after), *shape)), 1 - after / before,
                 ONLINE_GAIN)  # fmt: skip
    return replace(row, reason="; ".join(filter(None, (_times(seen), row.reason))))


def _times(seen: Seen) -> str:
    return f"its largest value is {seen.factor:.2g} times that of the others"


def apart(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    target: Target,
    rows: list[RotationRow],
    seen: dict[str, Seen],
) -> tuple[ir.Model, Plan, list[RotationRow]]:
    """The split model and its plan; an input that other ops read as codes, too, stays whole."""
    while any(row.is_applied for row in rows):
        copy = model.clone()
        done = [_split(copy, row, seen) if row.is_applied else row for row in rows]
        found = annotate(copy, recipe, target, has_data=True)
        held = {row.value for row in done if row.is_applied and row.value in found.activations}
        if not held:
            return copy, found, done
        rows = [replace(r, is_applied=False, reason=_held(r)) if r.value in held else r
                for r in rows]  # fmt: skip
    return model, plan, rows


def _held(row: RotationRow) -> str:
    return f"{row.reason}, but other ops read it as codes of one scale"


def _split(model: ir.Model, row: RotationRow, seen: dict[str, Seen]) -> RotationRow:
    """Split the input of a row; where the graph proves the row of token 0, it is folded."""
    value = _values(model.graph)[row.value]
    nodes = [use.node for use in value.uses() if use.node.name in row.readers]
    ends = [(n, fused_end(n)) for n in nodes]
    parts = [Divided(n, constant_first_row(model, e), seen[e.name or ""].is_far) for n, e in ends]
    split_first(value, parts)
    is_folded = all(part.row is not None for part in parts)
    return replace(row, transform=FOLDED) if is_folded else row


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    made = {v.name or "": v for node in graph for v in node.outputs}
    return {v.name or "": v for v in graph.inputs} | made
