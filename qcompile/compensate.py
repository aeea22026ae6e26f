# SPDX-License-Identifier: Apache-2.0
"""compensate: codes of weights that make up for one another's errors on the data (gptq.py).

The inputs are those of the float model. A weight keeps its nearest codes where they give a smaller
error on held-out samples; so does a table that Gather reads, whose rows are outputs themselves, a
weight too wide to solve for in the memory there is, and one whose results go into Log or Sqrt,
which negative codes for small weights could make negative. Layers go in groups whose moments fit
the memory, with one run of the model over the data a group; what is found waits in a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division, in_passes
from qcompile.errors import InputError
from qcompile.graph import attribute, is_op, static_shape
from qcompile.layer_cache import Layer, LayerCache
from qcompile.moments import Moments, Source, collect, divided
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.array_file import ArrayFile, StoredArray
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.passes.transform.correct_bias import bias_place
from qcompile.passes.transform.gptq import compensate, output_error
from qcompile.passes.transform.stats import Compensated, Stats
from qcompile.plan import Plan
from qcompile.poles import edge_of
from qcompile.products import fused_end, weight_of, window_of
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
    layers: LayerCache | None = None,
) -> Stats:
    """The statistics with compensated weights; as they are without data or for "nearest".

    layers: those that are there are not computed again.
    """
    if data is None and recipe.weight_rounding == "gptq":
        raise InputError(
            "weight rounding gptq needs inputs: give --calibration-data, or leave it out "
            "for rounding to nearest"
        )
    if data is None or recipe.weight_rounding == "nearest":
        return stats
    work = _Work(model, recipe, data, division, layers, ArrayFile())
    found: dict[str, Compensated] = {}
    most = division.working_bytes
    sites = [s for s in _sites(model, plan, recipe) if _SOLUTION_BYTES * s.moments_size <= most]
    groups = list(_groups(sites, min(most // 2, _MOMENTS_BYTES)))
    for number, group in enumerate(groups):
        part = replace(work, data=in_passes(data, number, len(groups)))
        for site, compensated in part.solve(group):
            if compensated is not None:
                found[site.weight.name or ""] = compensated
            work.solved.append(site)
            if data.watch is not None:
                data.watch("layers", len(work.solved), len(sites))
    return replace(stats, compensated=found)


@dataclass(frozen=True)
class _Work:
    """What the groups share."""

    model: ir.Model
    recipe: Recipe
    data: Data
    division: Division
    layers: LayerCache | None
    file: ArrayFile
    solved: list[Site] = field(default_factory=list)

    def solve(self, group: list[Site]) -> Iterator[tuple[Site, Compensated | None]]:
        """Each site with its compensated weight, or None where the nearest codes stay."""
        wanted = {s: Moments(s, self.recipe.seed) for s in dict.fromkeys(g.sources for g in group)}
        runs = divided(list(wanted.values()), self.data, self.division)
        inputs: dict[tuple[tuple[Source, ...], bool], StoredArray] = {}
        known: dict[Site, Compensated | None] = {}
        for site in group:
            layer = self._known(site, runs)
            if layer is not None:
                known[site] = self._stored(site, layer, inputs)
        left = {site.sources for site in group if site not in known}
        if left:
            collect(self.model, [m for s, m in wanted.items() if s in left], runs, self.division)
        for sources, moments in wanted.items():
            for is_centred in (False, True):
                same = [s for s in group if s.sources == sources and s.is_centred == is_centred]
                result = None
                for site in same:
                    if site not in known:
                        result = result or moments.result(is_centred=is_centred)
                        layer = self._computed(site, *result)
                        if self.layers is not None:
                            self.layers.write(self._depends_on(site, runs), layer)
                        known[site] = self._stored(site, layer, inputs)
                    yield site, known[site]

    def _stored(
        self,
        site: Site,
        layer: Layer,
        inputs: dict[tuple[tuple[Source, ...], bool], StoredArray],
    ) -> Compensated | None:
        """The layer in the file; held-out inputs that sites share are there once."""
        if layer.weight is None:
            return None
        shared = site.sources, site.is_centred
        if shared not in inputs:
            inputs[shared] = self.file.put(layer.inputs)
        return Compensated.store(self.file, site.spec, layer.weight, inputs[shared], layer.errors)

    def _computed(
        self, site: Site, hessian: NDArray[np.float32], held: NDArray[np.float32]
    ) -> Layer:
        """The codes that the moments give, where they make the weight better."""
        assert site.weight.const_value is not None
        weight, spec = as_matrix(site.weight.const_value), site.spec
        nearest = code_weight(weight, spec, scale_method(spec, self.recipe.weight_scale_method))
        coded = compensate(weight, nearest, hessian, symmetric=spec.is_symmetric)
        if coded is None:
            return Layer(None, (0.0, 0.0), held[:0])
        errors = output_error(weight, coded, held), output_error(weight, nearest, held)
        is_better = errors[0] < errors[1]
        return Layer(coded, errors, held) if is_better else Layer(None, errors, held[:0])

    def _known(self, site: Site, runs: Data) -> Layer | None:
        if self.layers is None:
            return None
        dims, source = static_shape(site.weight), site.sources[0]
        assert dims is not None
        shape = dims[0], source.columns
        return self.layers.read(self._depends_on(site, runs), site.spec, shape, source.group)

    def _depends_on(self, site: Site, runs: Data) -> dict[str, Any]:
        """What decides about the codes, beside the model and the samples."""
        return {
            "weight": site.weight.name,
            "spec": str(site.spec),
            "scale": scale_method(site.spec, self.recipe.weight_scale_method),
            "sources": [str(source) for source in site.sources],
            "is_centred": site.is_centred,
            "seed": self.recipe.seed,
            "runs": [runs.batch.count(feed) for feed in runs.feeds],
        }


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
    """What a product reads; None for a table or an LSTM, and where signs have to stay."""
    value = weight_of(node)
    dims = static_shape(value) if value is not None else None
    if dims is None or node.inputs[0] is None or is_op(node, "Gather", "LSTM"):
        return None
    if edge_of(fused_end(node)) is not None:
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
