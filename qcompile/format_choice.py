# SPDX-License-Identifier: Apache-2.0
"""choose_formats: `--weight-format auto`, for every weight the format whose codes lose least.

Before: the plan with the preset's own specs, uint4 in blocks of 32 with zero points, say.
After: each weight has the spec of least error among those of as many bits and at most as many bytes
with the scales: integers, floats, quantiles of a normal, fitted levels, posits, in blocks with
scales of one or two bytes.

The error is that of the products' outputs on the calibration data, trace((Ŵ − W) H (Ŵ − W)ᵀ) with
H = E[x xᵀ] of the float model's inputs; without data, or where H has no room in the memory, it is
the weight's own. Codes are the nearest ones, in scales of least squared error ("INT v.s. FP",
section 6, chooses by the same QSNR); with H the four best formats are held against each other with
codes by descent, which all get in the end (a grouped convolution's are not). Of a large weight some
rows are looked at. Weights of 1 and of 8 bits keep the preset's format, as do those of which a node
has a format of its own.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile import formats, targets
from qcompile.compensate import Site, in_groups, sites_of, with_rows
from qcompile.data import Data
from qcompile.division import Division, in_passes
from qcompile.formats.block import stored_scales
from qcompile.formats.minifloat import splits
from qcompile.formats.scales import scale_format
from qcompile.layouts.scales import scale_bytes
from qcompile.moments import Moments, collect, divided
from qcompile.node_specs import is_chosen, request_of
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.passes.transform.descend import descend
from qcompile.plan import WEIGHTED_OPS, NodePlan, Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.recurrent import rule_for
from qcompile.settle_formats import sample_of, settled_spec
from qcompile.spec import QuantSpec

_SCALES = (("f16", 32), ("ue4m3", 16), ("e8m0", 32))
_SAMPLE = 1 << 16  # weights that are looked at
_FINALISTS = 4  # of the nearest codes, whose codes are made by descent; that takes most of the time
_SOLUTION_BYTES = 12  # times groups · K²: moments in float32 and a copy in float64
_MOMENTS_BYTES = 1 << 30

Real = NDArray[np.float64]


def choose_formats(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None = None,
    division: Division | None = None,
) -> Plan:
    """The plan with the specs that were chosen, and a note of how many weights have which."""
    readers = _readers(model, plan, recipe)
    if not readers:
        return plan
    nodes, taken = dict(plan.nodes), Counter[str]()
    for name, hessian in _moments(model, plan, recipe, set(readers), data, division):
        found = readers.pop(name)
        taken[_take(nodes, found, plan.target, hessian)] += 1
    for found in readers.values():
        spec = found[0][1].weight
        assert spec is not None
        method = None if data is not None else scale_method(spec, recipe.weight_scale_method)
        taken[_take(nodes, found, plan.target, method=method)] += 1
    how = "their outputs on the data" if data is not None else "the weights, without data"
    counts = ", ".join(f"{name} {count}" for name, count in taken.most_common())
    note = f"weight formats were chosen by the error of {how}: {counts}"
    return replace(plan, nodes=nodes, notes=(*plan.notes, note))


def planned(model: ir.Model, plan: Plan, recipe: Recipe, *, has_data: bool) -> Plan:
    """What --dry-run shows: with data formats are chosen when the model is run on it."""
    if not has_data:
        return choose_formats(model, plan, recipe)
    if not _readers(model, plan, recipe):
        return plan
    note = (
        "formats of weights are chosen when outputs on the data are known: these are the preset's"
    )
    return replace(plan, notes=(*plan.notes, note))


def _take(
    nodes: dict[str, NodePlan],
    readers: list[tuple[ir.Node, NodePlan]],
    target: str,
    hessian: Real | None = None,
    method: str | None = None,
) -> str:
    """Writes the best spec of a weight into the plans of its readers; gives its format's name."""
    value = weight_of(readers[0][0])
    assert value is not None and value.const_value is not None
    specs = [spec for spec in _candidates(readers[0][1]) if _runs(readers, spec, target)]
    best = best_spec(as_matrix(value.const_value), specs, hessian, method)
    for _, planned in readers:
        nodes[planned.node] = replace(planned, weight=best, rule=f"{planned.rule}; auto")
    return f"{best.format.name}/{scale_format(best.scale_format).stored_as}"


def best_spec(
    weight: NDArray[np.float32],
    specs: list[QuantSpec],
    hessian: Real | None = None,
    method: str | None = None,
) -> QuantSpec:
    """The first of the least error on a weight [N, K], as it was given.

    hessian: [groups, K, K], or None for the weight's own error. method: of scales; None: as with
    data, where all are searched.

    >>> specs = [QuantSpec.parse(f"{name}/axis(axis=0)/sym/f32") for name in ("int3", "e2m0")]
    >>> str(best_spec(np.float32([[4, 2, 1, 0, -1, -2, -4]]), specs).format)
    'e2m0'
    """
    errors = errors_of(weight, specs, hessian, method)
    if hessian is not None and len(hessian) == 1:
        specs = [specs[i] for i in np.argsort(errors, kind="stable")[:_FINALISTS]]
        errors = errors_of(weight, specs, hessian, method, is_descended=True)
    return specs[int(np.argmin(errors))]


def errors_of(
    weight: NDArray[np.float32],
    specs: list[QuantSpec],
    hessian: Real | None = None,
    method: str | None = None,
    *,
    is_descended: bool = False,
) -> list[float]:
    """The error of each spec; of a large weight on rows that are evenly apart.

    is_descended: of codes by descent (one hessian for all rows), not of the nearest ones.
    """
    n, sample = len(weight), sample_of(weight, _SAMPLE)
    rows = np.arange(len(sample)) * -(-n // len(sample))
    errors = []
    for spec in specs:
        settled = settled_spec(sample, spec)
        coded = code_weight(sample, settled, method or "mse")
        if hessian is None:
            errors.append(float(np.square(coded.decode().astype(np.float64) - sample).sum()))
            continue
        if is_descended:
            coded = descend(sample, coded, hessian.astype(np.float32), settled) or coded
        left = coded.decode().astype(np.float64) - sample
        group = rows * len(hessian) // n
        parts = ((left[group == g], each) for g, each in enumerate(hessian))
        errors.append(float(sum(((part @ each) * part).sum() for part, each in parts)))
    return errors


def candidates(own: QuantSpec, num_weights: int, *, is_integer: bool) -> list[QuantSpec]:
    """The preset's own spec and others that are not larger. is_integer: of integer products."""
    bits = own.bits
    names = [f"int{bits}", f"lloyd{bits}", f"kmeans{bits}"]
    if bits >= 3:
        floats = splits(bits)[1:]  # e1m<M> has the values of int<b>
        names += [*floats, f"posit{bits}_0", f"posit{bits}_1"]
    names += [f"nf{bits}", f"bitmod{bits}"] * (bits in (3, 4))
    elements = [formats.get(name) for name in names]
    elements = [each.in_int16() if is_integer else each for each in elements]
    if own.granularity != "block":
        return [own, *(replace(own, format=each, is_symmetric=True) for each in elements)]
    found = [
        QuantSpec(each, "block", own.axis, size, True, stored_scales(each, scale))
        for scale, size in _SCALES
        for each in elements
    ]
    most = bits_per_weight(own, num_weights)
    return [own, *(spec for spec in found if bits_per_weight(spec, num_weights) <= most)]


def bits_per_weight(spec: QuantSpec, num_weights: int) -> float:
    """Bits of a code with its share of the scale and of a table of its own, 2 bytes an entry.

    The scale of a whole row, which every format has alike, does not count.

    >>> bits_per_weight(QuantSpec.parse("uint4/block(axis=1,size=32)/asym/f16"), 4096)
    4.75
    >>> bits_per_weight(QuantSpec.parse("kmeans4/block(axis=1,size=16)/sym/ue4m3"), 4096)
    4.5625
    """
    own_table = 16 * spec.format.num_codes if spec.format.is_fitted else 0
    bits = spec.bits + own_table / num_weights
    if spec.granularity != "block":
        return bits
    scale = 8 * scale_bytes(scale_format(spec.scale_format).stored_as)
    has_point = not spec.is_symmetric or bool(spec.format.specials)
    return bits + (scale + 8 * has_point) / spec.block_size


def _candidates(planned: NodePlan) -> list[QuantSpec]:
    assert planned.weight is not None
    is_integer = planned.activation is not None
    return candidates(planned.weight, planned.num_elements, is_integer=is_integer)


def _runs(readers: list[tuple[ir.Node, NodePlan]], spec: QuantSpec, target: str) -> bool:
    """Whether the target has a kernel for every reader of the weight."""
    refuse = targets.get(target).refuse
    return not any(refuse(request_of(node, spec, planned.activation)) for node, planned in readers)


def _readers(
    model: ir.Model, plan: Plan, recipe: Recipe
) -> dict[str, list[tuple[ir.Node, NodePlan]]]:
    """The readers of every weight whose format is to be chosen, by its name."""
    found: dict[str, list[tuple[ir.Node, NodePlan]]] = {}
    for node in model.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is not None and planned.is_rounded and planned.op_type in WEIGHTED_OPS:
            found.setdefault(planned.weight_name, []).append((node, planned))
    return {
        name: readers
        for name, readers in found.items()
        if all(is_chosen(recipe, rule_for(node, recipe)) for node, _ in readers)
        and all(p.weight is not None and 1 < p.weight.bits < 8 for _, p in readers)
    }


def _moments(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    wanted: set[str],
    data: Data | None,
    division: Division | None,
) -> Iterator[tuple[str, Real]]:
    """The second moments float64 [groups, K, K] of the wanted weights that have room for them."""
    if data is None or division is None:
        return
    most = division.working_bytes
    sites = [s for s in sites_of(model, plan, recipe) if s.weight.name in wanted]
    sites = [s for s in sites if _SOLUTION_BYTES * s.moments_size <= most]
    groups = list(in_groups(sites, min(most // 2, _MOMENTS_BYTES)))
    for number, group in enumerate(groups):
        part = in_passes(data, number, len(groups))
        held = {s: Moments(s, recipe.seed) for s in dict.fromkeys(g.sources for g in group)}
        runs = divided(list(held.values()), part, division)
        collect(model, list(held.values()), runs, division)
        for site in group:
            yield site.weight.name or "", _hessian(site, held[site.sources])


def _hessian(site: Site, moments: Moments) -> Real:
    hessian, held = moments.result(is_centred=site.is_centred)
    if site.is_table:
        assert site.weight.const_value is not None
        hessian, _ = with_rows(as_matrix(site.weight.const_value), hessian, held)
    return hessian.astype(np.float64)
