# SPDX-License-Identifier: Apache-2.0
"""low_rank: `--low-rank SHARE` adds to narrow products what their codes leave out, in low rank.

SLiM (Mozaffari et al. 2025, section 3.3): rank SHARE · min(N, K), in two products of 8 bits that
read the same input (saliency_rank.py, insert_low_rank.py). A part is kept where the output error on
held-out inputs falls. It takes products of weights below 8 bits that one MatMul alone reads, with
dynamic or float activations: static ones would quantize the two sums that are added.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qcompile.compensate import source_of
from qcompile.data import Data
from qcompile.division import Division
from qcompile.formats import get
from qcompile.graph import is_op
from qcompile.moments import Moments, Source, collect, divided
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.passes.transform.insert_low_rank import PARTS, weight_name
from qcompile.passes.transform.saliency_rank import LowRank, error_of, saliency_rank
from qcompile.passes.transform.stats import Stats
from qcompile.plan import NodePlan, Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec

_BYTES = 64  # of a weight's element: the error in float64, its factors and LAPACK's copies


@dataclass(frozen=True)
class _Site:
    node: ir.Node
    planned: NodePlan
    source: Source


def planned(recipe: Recipe) -> str:
    """What a dry run can say; "" where none are asked for."""
    if not recipe.low_rank:
        return ""
    return (
        f"low-rank parts of at most {recipe.low_rank:g} of the smaller side follow, for narrow "
        "products whose error on held-out inputs falls by them"
    )


def add_low_rank(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    stats: Stats,
    division: Division,
) -> tuple[Plan, Stats]:
    """The plan with the products of the parts, and the statistics with the parts."""
    if not recipe.low_rank:
        return plan, stats
    if data is None:
        note = "no low-rank parts: they need --calibration-data"
        return replace(plan, notes=(*plan.notes, note)), stats
    narrow = [p for p in plan.nodes.values() if p.weight is not None and p.weight.bits < 8]
    sites = [
        s for s in _sites(model, plan) if _BYTES * s.planned.num_elements <= division.working_bytes
    ]
    moments = {s.source: Moments((s.source,), recipe.seed) for s in sites}
    runs = divided(list(moments.values()), data, division)
    collect(model, list(moments.values()), runs, division)
    found: dict[str, LowRank] = {}
    nodes, before, after = dict(plan.nodes), 0.0, 0.0
    for site in sites:
        part, errors = _part(site, moments[site.source], stats, recipe)
        if errors[1] < errors[0]:
            found[site.planned.node] = part
            nodes |= {p.node: p for p in _plans(site.planned, part)}
            before, after = before + 1, after + errors[1] / errors[0]
    note = f"low-rank parts: {len(found)} of {len(narrow)} narrow products"
    if len(sites) < len(narrow):
        note += "; others are no MatMul of an own weight with dynamic or float inputs, or too large"
    if found:
        note += (
            f"; output error on held-out inputs {after / before:.3g} of that of their codes alone"
        )
    plan = replace(plan, nodes=nodes, notes=(*plan.notes, note))
    return plan, replace(stats, low_rank=found)


def _sites(model: ir.Model, plan: Plan) -> list[_Site]:
    found = []
    for node in model.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is None or not planned.may_change or not is_op(node, "MatMul"):
            continue
        source, value = source_of(node), weight_of(node)
        is_narrow = planned.weight is not None and planned.weight.bits < 8
        is_free = planned.activation is None or planned.activation.is_dynamic
        if source is None or value is None or not is_narrow or not is_free:
            continue
        if len(value.uses()) == 1 and len(next(iter(value.uses())).node.outputs[0].uses()) == 1:
            found.append(_Site(node, planned, source))
    return found


def _part(
    site: _Site, moments: Moments, stats: Stats, recipe: Recipe
) -> tuple[LowRank, tuple[float, float]]:
    """The part of a product, and its output error without and with it on held-out inputs."""
    value, spec = weight_of(site.node), site.planned.weight
    assert value is not None and value.const_value is not None and spec is not None
    weight, known = as_matrix(value.const_value), stats.compensated.get(value.name or "")
    method = scale_method(spec, recipe.weight_scale_method)
    coded = code_weight(weight, spec, method) if known is None else known.read()
    second, held = moments.result(is_centred=False)
    rank = max(1, int(recipe.low_rank * min(weight.shape)))
    inner, outer = saliency_rank(weight, coded, np.diagonal(second[0]), rank)
    inner, outer = (code_weight(part, _spec(), "minmax").decode() for part in (inner, outer))
    part = LowRank(inner, outer, held)
    return part, (
        error_of(weight, coded.decode().astype(np.float64), held),
        part.left(weight, coded),
    )


def _spec() -> QuantSpec:
    return QuantSpec(get("int8"), "axis", 0)


def _plans(planned: NodePlan, part: LowRank) -> list[NodePlan]:
    """Of both products: 8 bits."""
    is_float = planned.activation is None
    activation = None if is_float else QuantSpec(get("int8"), "row")
    return [
        NodePlan(
            f"{planned.node}/{word}",
            "MatMul",
            weight_name(f"{planned.node}/{word}"),
            weight.size,
            _spec(),
            activation,
            rule="--low-rank",
        )
        for word, weight in zip(PARTS, (part.inner, part.outer), strict=True)
    ]
