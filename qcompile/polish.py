# SPDX-License-Identifier: Apache-2.0
"""polish: LogNP levels for narrow static activations, where they have less error (QuartDepth).

`--activation-polish lognp`, target cpu. What narrow products read keeps 8 bits and gets a copy of
2^b of its codes, the levels of LogNP (numerics/lognp.py) rounded to the codes, by a table (N25).
It is chosen where the squared error on the data is below that of the uniform levels.

A value stays as it is where something else reads its narrow codes, or a product with wide weights
the value.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qcompile.data import Data
from qcompile.division import Division
from qcompile.errors import InputError
from qcompile.numerics.lognp import LogNP
from qcompile.numerics.params import QuantParams, params_of_range
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.observers.histogram import Histogram
from qcompile.passes.transform.stats import Stats
from qcompile.plan import NodePlan, Plan
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.widen import NARROW, WIDE


def check_polish(recipe: Recipe, target: str) -> None:
    """InputError where the target has no tables for it; needs no model."""
    if recipe.activation_polish is not None and (target != "cpu" or recipe.integer_only):
        raise InputError(
            f"activation polish {recipe.activation_polish}: the tables are target cpu's; target "
            f"{target}{' --integer-only' * recipe.integer_only} has none: leave it out"
        )


def planned(recipe: Recipe) -> str:
    """What a dry run can say; "" where nothing is asked for."""
    if recipe.activation_polish is None:
        return ""
    return (
        f"activation polish {recipe.activation_polish}: narrow activations get its levels, in "
        "codes of 8 bits, where these have less error on the data"
    )


@dataclass(frozen=True)
class _Site:
    """A value of the model, its narrow codes (its own name, or that of a copy), the products."""

    value: str
    narrow: str
    products: tuple[str, ...]


@dataclass
class _Changes:
    activations: dict[str, QuantSpec] = field(default_factory=dict)
    ranges: dict[str, QuantParams] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    polish: dict[str, LogNP] = field(default_factory=dict)
    products: set[str] = field(default_factory=set)

    def take(self, site: _Site, spec: QuantSpec, params: QuantParams, found: LogNP) -> None:
        """Polish the site, whose 8-bit codes have these params."""
        wide, copy = replace(spec, format=WIDE), site.value + NARROW
        for name in {site.narrow, copy}:
            self.activations[name], self.ranges[name] = wide, params
        self.copies[copy], self.polish[copy] = site.value, found
        self.products |= set(site.products)


def polish(
    model: ir.Model, plan: Plan, recipe: Recipe, data: Data | None, stats: Stats, division: Division
) -> tuple[Plan, Stats]:
    """The plan with polished copies and the statistics with their levels."""
    if recipe.activation_polish is None:
        return plan, stats
    sites = [] if data is None else list(_sites(model, plan))
    seen = {site.value: Histogram() for site in sites}
    if data is not None:
        for _, found in division.runs(model, {name: [name] for name in seen}, data):
            for name, value in found.items():
                seen[name].update(np.asarray(value, np.float32))
    changes = _Changes()
    for site in sites:
        spec = plan.activations[site.narrow]
        chosen = _better(seen[site.value], stats.ranges[plan.leaders[site.narrow]], spec.bits)
        if chosen is not None:
            changes.take(site, spec, params_of_range(*seen[site.value].range(), WIDE), chosen)
    note = f"activation polish lognp: {len(changes.polish)} of {len(sites)} narrow activations"
    note += " have levels of LogNP in codes of 8 bits"
    plan = replace(
        plan,
        activations=plan.activations | changes.activations,
        leaders=plan.leaders | {name: name for name in changes.activations},
        copies=plan.copies | changes.copies,
        nodes=plan.nodes | {name: _wide_node(plan, name) for name in changes.products},
        notes=(*plan.notes, note),
    )
    return plan, replace(stats, ranges=stats.ranges | changes.ranges, polish=changes.polish)


def _wide_node(plan: Plan, name: str) -> NodePlan:
    node = plan.nodes[name]
    assert node.activation is not None
    return replace(node, activation=replace(node.activation, format=WIDE))


def _better(seen: Histogram, params: QuantParams, bits: int) -> LogNP | None:
    """LogNP where its error is below that of the uniform codes."""
    if not len(seen.counts):
        return None
    middles = (seen.edges[:-1] + seen.edges[1:]) / 2
    values = np.append(middles, 0.0)  # exact zeros, which Relu makes
    counts = np.append(seen.counts.astype(np.float64), float(seen.num_zeros))
    counts[np.searchsorted(seen.edges, 0.0, side="right") - 1] -= seen.num_zeros
    found = LogNP.of(values, counts, bits)
    if found is None:
        return None
    codes = quantize(values, params.scale, params.zero_point, params.format, symmetric=False)
    uniform = dequantize(codes, params.scale, params.zero_point, params.format)
    error = float((counts * np.square(uniform - values)).sum())
    return found if found.error(values, counts) < error else None


def _sites(model: ir.Model, plan: Plan) -> Iterator[_Site]:
    readers: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        for read in filter(None, node.inputs):
            readers.setdefault(read.name or "", []).append(node)
    families = list(plan.leaders.values())
    for value, nodes in readers.items():
        narrow = value if value not in plan.copies.values() else value + NARROW
        spec = plan.activations.get(narrow)
        if spec is None or spec.bits == 8 or spec.granularity != "tensor":
            continue
        planned = [p for n in nodes if (p := plan.nodes.get(n.name or "")) and p.is_quantized]
        is_alone = narrow != value or (len(planned) == len(nodes) and families.count(value) == 1)
        if is_alone and planned and all(p.activation == spec for p in planned):
            yield _Site(value, narrow, tuple(p.node for p in planned))
