# SPDX-License-Identifier: Apache-2.0
"""compensate: codes of weights that make up for one another's errors on the data (gptq.py).

The inputs are those of the float model. A weight keeps its nearest codes where they give a smaller
error on held-out samples; so does a table that Gather reads, whose rows are outputs themselves, and
a weight too wide to solve for in the memory there is. Layers go in groups whose moments fit the
memory, with one run of the model over the data a group; what is found waits in a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from qcompile.data import Data
from qcompile.division import Division
from qcompile.errors import InputError
from qcompile.graph import attribute, is_op, static_shape
from qcompile.moments import Moments, Source, collect
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.array_file import ArrayFile, StoredArray
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.passes.transform.correct_bias import bias_place
from qcompile.passes.transform.gptq import compensate, output_error
from qcompile.passes.transform.stats import Compensated, Stats
from qcompile.plan import Plan
from qcompile.products import weight_of, window_of
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec

_MOMENTS_BYTES = 1 << 30  # of a group at most; another run of the model costs little
_SOLUTION_BYTES = 28  # times groups · K²: float64 H, its factor and LAPACK's copy, float32 moments


@dataclass(frozen=True)
class Site:
    """A weight, its spec, what its readers take in, and whether all of them correct their bias."""

    weight: ir.Value
    spec: QuantSpec
    sources: tuple[Source, ...]
    is_centred: bool

    @property
    def moments_size(self) -> int:
        """Elements of [groups, K, K]."""
        return self.sources[0].group * self.sources[0].columns ** 2


def compensate_weights(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    stats: Stats,
    division: Division,
) -> Stats:
    """The statistics with compensated weights; as they are without data or for "nearest"."""
    if data is None and recipe.weight_rounding == "gptq":
        raise InputError(
            "weight rounding gptq needs inputs: give --calibration-data, or leave it out "
            "for rounding to nearest"
        )
    if data is None or recipe.weight_rounding == "nearest":
        return stats
    file = ArrayFile()
    found: dict[str, Compensated] = {}
    most = division.budget.working_bytes
    sites = [s for s in _sites(model, plan, recipe) if _SOLUTION_BYTES * s.moments_size <= most]
    for group in _groups(sites, min(most // 2, _MOMENTS_BYTES)):
        wanted = {s: Moments(s, recipe.seed) for s in dict.fromkeys(site.sources for site in group)}
        collect(model, list(wanted.values()), data, division)
        for sources, moments in wanted.items():
            for is_centred in (False, True):
                same = [s for s in group if s.sources == sources and s.is_centred == is_centred]
                if same:
                    found |= _solve(same, moments, recipe, file)
    return replace(stats, compensated=found)


def _solve(
    sites: list[Site], moments: Moments, recipe: Recipe, file: ArrayFile
) -> dict[str, Compensated]:
    """The weights that the moments make better."""
    hessian, held = moments.result(is_centred=sites[0].is_centred)
    inputs: StoredArray | None = None
    found = {}
    for site in sites:
        assert site.weight.const_value is not None
        weight, spec = as_matrix(site.weight.const_value), site.spec
        nearest = code_weight(weight, spec, scale_method(spec, recipe.weight_scale_method))
        coded = compensate(weight, nearest, hessian, symmetric=spec.is_symmetric)
        if coded is None:
            continue
        errors = output_error(weight, coded, held), output_error(weight, nearest, held)
        if errors[0] < errors[1]:
            inputs = inputs or file.put(held)
            name = site.weight.name or ""
            found[name] = Compensated.store(file, spec, coded, inputs, errors)
    return found


def _sites(model: ir.Model, plan: Plan, recipe: Recipe) -> list[Site]:
    """Every weight that only quantized products read, in the order of the graph."""
    readers: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is not None and planned.is_rounded:
            readers.setdefault(planned.weight_name, []).append(node)
    found = []
    for nodes in readers.values():
        value, spec = weight_of(nodes[0]), plan.nodes[nodes[0].name or ""].weight
        sources = tuple(_source(n) for n in nodes)
        usable = [s for s in sources if s is not None]
        if value is None or spec is None or len(usable) < len(sources):
            continue
        if len({(s.columns, s.group) for s in usable}) == 1:
            corrected = recipe.bias_correction and all(bias_place(n) for n in nodes)
            found.append(Site(value, spec, tuple(dict.fromkeys(usable)), corrected))
    return found


def _source(node: ir.Node) -> Source | None:
    """What a product reads; None for a table or an LSTM."""
    value = weight_of(node)
    dims = static_shape(value) if value is not None else None
    if dims is None or node.inputs[0] is None or is_op(node, "Gather", "LSTM"):
        return None
    name = node.inputs[0].name or ""
    if not is_op(node, "Conv"):
        return Source(name, dims[1])
    window = window_of(node, (dims[2], dims[3]))
    return Source(name, dims[1] * dims[2] * dims[3], int(attribute(node, "group", 1)), window)


def _groups(sites: list[Site], most_bytes: int) -> Iterator[list[Site]]:
    """Neighbours whose moments fit the budget together; at least one site each."""
    group: list[Site] = []
    held: dict[tuple[Source, ...], int] = {}
    for site in sites:
        size = sum(map(Moments.bytes_of, site.sources))
        if group and sum((held | {site.sources: size}).values()) > most_bytes:
            yield group
            group, held = [], {}
        group.append(site)
        held[site.sources] = size
    if group:
        yield group
