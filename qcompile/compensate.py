# SPDX-License-Identifier: Apache-2.0
"""compensate: codes of weights that make up for one another's errors on the data (gptq.py).

The inputs are those of the float model. On held-out samples the best of descent (descend.py), GPTQ
and the nearest codes is taken. A weight too wide to solve for in the memory there is keeps its
nearest codes, as does one that only Gather reads, and one whose results go into Log or Sqrt,
which negative codes for small weights could make negative. Layers go in groups whose moments fit
the memory, with one run of the model over the data a group; what is found waits in a file.
"""

from collections.abc import Container, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division, in_passes
from qcompile.errors import InputError
from qcompile.graph import attribute, is_op, static_shape
from qcompile.layer_cache import Layer, LayerCache
from qcompile.memory import row_slices
from qcompile.moments import Moments, Source, collect, divided
from qcompile.passes.transform.array_file import ArrayFile, StoredArray
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.passes.transform.correct_bias import bias_place
from qcompile.passes.transform.rounding import ROUNDINGS, quantize, rounding_of
from qcompile.passes.transform.stats import Compensated, Stats
from qcompile.plan import Plan
from qcompile.poles import edge_of
from qcompile.products import fused_end, weight_of, window_of
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.workers import Job

_MOMENTS_BYTES = 1 << 30  # of a group at most; another run of the model costs little
_SOLUTION_BYTES = 28  # times groups · K²: float64 H, its factor and LAPACK's copy, float32 moments
_SENT_BYTES = 8  # of the same, where another process solves: its moments, pickled


@dataclass(frozen=True)
class Site:
    """A weight, its spec and what its products take in.

    is_centred: whether all of them correct their bias. is_table: whether Gather reads it, too.
    """

    weight: ir.Value
    spec: QuantSpec
    sources: tuple[Source, ...]
    is_centred: bool
    is_table: bool = False

    @property
    def inputs(self) -> Hashable:
        """The same for sites with the same held-out inputs."""
        return self.sources, self.is_centred, self.weight if self.is_table else None

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

    Of sparse weights "nearest", too, has a choice: which ones the inputs say to keep.

    layers: those that are there are not computed again.
    """
    if data is None and ROUNDINGS[recipe.weight_rounding or "nearest"].rounders:
        raise InputError(
            f"weight rounding {recipe.weight_rounding} needs inputs: give --calibration-data, or "
            "leave it out for rounding to nearest"
        )
    is_asked = recipe.sparsity is not None or rounding_of(recipe.weight_rounding).rounders
    if data is None or not is_asked:
        return stats
    is_signed = not plan.is_integer_only
    work = _Work(model, recipe, data, division, layers, ArrayFile(), is_signed)
    found: dict[str, Compensated] = {}
    most = division.working_bytes
    sites = [s for s in sites_of(model, plan, recipe) if _SOLUTION_BYTES * s.moments_size <= most]
    groups = list(in_groups(sites, min(most // 2, _MOMENTS_BYTES)))
    for number, group in enumerate(groups):
        part = replace(work, data=in_passes(data, number, len(groups)))
        for site, compensated in part.solve(group):
            if compensated is not None:
                found[site.weight.name or ""] = compensated
            work.solved.append(site)
            if data.watch is not None:
                data.watch("layers", len(work.solved), len(sites))
    ordered = {name: found[name] for s in sites if (name := s.weight.name or "") in found}
    return replace(stats, compensated=ordered)


@dataclass(frozen=True)
class _Work:
    """What the groups share."""

    model: ir.Model
    recipe: Recipe
    data: Data
    division: Division
    layers: LayerCache | None
    file: ArrayFile
    is_signed: bool  # whether a scale may be negative: dyadic multipliers have no sign
    solved: list[Site] = field(default_factory=list)

    def solve(self, group: list[Site]) -> Iterator[tuple[Site, Compensated | None]]:
        """Each site with its compensated weight, or None where the nearest codes stay."""
        wanted = {s: Moments(s, self.recipe.seed) for s in dict.fromkeys(g.sources for g in group)}
        runs = divided(list(wanted.values()), self.data, self.division)
        inputs: dict[Hashable, StoredArray] = {}
        known: dict[Site, Compensated | None] = {}
        for site in group:
            layer = self._known(site, runs)
            if layer is not None:
                known[site] = self._stored(site, layer, inputs)
        left = {site.sources for site in group if site not in known}
        if left:
            collect(self.model, [m for s, m in wanted.items() if s in left], runs, self.division)
        yield from known.items()
        jobs, most = self._jobs(wanted, group, known), self.division.working_bytes
        for site, layer in self.division.workers.results(jobs, most):
            if self.layers is not None:
                self.layers.write(self._depends_on(site, runs), layer)
            yield site, self._stored(site, layer, inputs)

    def _jobs(
        self, wanted: dict[tuple[Source, ...], Moments], group: list[Site], known: Container[Site]
    ) -> Iterator[Job[Site, Layer]]:
        """Those of the group that are left; sites of equal inputs have one array of moments."""
        for sources, moments in wanted.items():
            for is_centred in (False, True):
                same = [s for s in group if s.sources == sources and s.is_centred == is_centred]
                left = [s for s in same if s not in known]
                result = moments.result(is_centred=is_centred) if left else ()
                for site in left:
                    size = (_SOLUTION_BYTES + _SENT_BYTES) * site.moments_size
                    yield Job(site, _layer, partial(self._arguments, site, *result), size)

    def _stored(
        self, site: Site, layer: Layer, inputs: dict[Hashable, StoredArray]
    ) -> Compensated | None:
        """The layer in the file; held-out inputs that sites share are there once."""
        if layer.weight is None:
            return None
        if site.inputs not in inputs:
            inputs[site.inputs] = self.file.put(layer.inputs)
        held = inputs[site.inputs]
        return Compensated.store(self.file, site.spec, layer.weight, held, layer.errors)

    def _arguments(
        self, site: Site, hessian: NDArray[np.float32], held: NDArray[np.float32]
    ) -> tuple[Any, ...]:
        """Of `_layer`."""
        assert site.weight.const_value is not None
        weight, recipe = as_matrix(site.weight.const_value), self.recipe
        asked = recipe.weight_rounding, recipe.weight_scale_method, self.is_signed
        return weight, hessian, held, site.spec, site.is_table, *asked

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
            "is_table": site.is_table,
            "rounding": [*rounding_of(self.recipe.weight_rounding).names, self.is_signed],
            "seed": self.recipe.seed,
            "runs": [runs.batch.count(feed) for feed in runs.feeds],
        }


def _layer(
    weight: NDArray[np.float32],
    hessian: NDArray[np.float32],
    held: NDArray[np.float32],
    spec: QuantSpec,
    is_table: bool,
    rounding: str | None,
    method: str | None,
    is_signed: bool,
) -> Layer:
    """The codes that the moments give, where they make the weight better."""
    if is_table:
        hessian, held = with_rows(weight, hessian, held)
    found = quantize(
        *(weight, hessian, spec, held),
        rounding=rounding_of(rounding),
        method=method,
        is_signed=is_signed,
    )
    errors = found.error, found.nearest_error
    return Layer(found.weight, errors, held) if found.is_better else Layer(None, errors, held[:0])


def with_rows(
    weight: NDArray[np.float32], hessian: NDArray[np.float32], held: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Second moments and held-out inputs of a table's products [1, K, K], [num, 1, K] and its rows.

    A row is the output of an input that is one-hot: √λ times the unit matrix adds λ ‖Ŵ − W‖². λ
    gives the rows as much weight as the products: their errors count relative to their size.
    """
    gram, unit = np.zeros(hessian.shape[1:]), np.eye(weight.shape[1], dtype=np.float32)
    for rows in row_slices(*weight.shape):
        wide = weight[rows].astype(np.float64)
        gram += wide.T @ wide
    square = max(float(gram.trace()), 2.0**-1022)
    own = np.float32((gram * hessian[0]).sum() / square)
    heard = np.float32(((held[:, 0] @ gram) * held[:, 0]).sum() / square)
    return hessian + own * unit, np.concatenate([held, np.sqrt(heard) * unit[:, None]])


def sites_of(model: ir.Model, plan: Plan, recipe: Recipe) -> list[Site]:
    """Every weight that quantized products read, in the order of the graph."""
    readers: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is not None and planned.may_change:
            readers.setdefault(planned.weight_name, []).append(node)
    found = []
    for nodes in readers.values():
        value, spec = weight_of(nodes[0]), plan.nodes[nodes[0].name or ""].weight
        products = [n for n in nodes if not is_op(n, "Gather")]
        usable = [s for n in products if (s := source_of(n)) is not None]
        if value is None or spec is None or len(usable) < len(products):
            continue
        if len({(s.columns, s.group) for s in usable}) == 1:
            is_table = len(products) < len(nodes)
            corrected = recipe.bias_correction and all(bias_place(n) for n in products)
            sources = tuple(dict.fromkeys(usable))
            found.append(Site(value, spec, sources, corrected and not is_table, is_table))
    return found


def source_of(node: ir.Node) -> Source | None:
    """What a product reads; None for an LSTM, and where signs have to stay."""
    value = weight_of(node)
    dims = static_shape(value) if value is not None else None
    if dims is None or node.inputs[0] is None or is_op(node, "LSTM"):
        return None
    if edge_of(fused_end(node)) is not None:
        return None
    name = node.inputs[0].name or ""
    if not is_op(node, "Conv"):
        return Source(name, dims[1])
    window = window_of(node, (dims[2], dims[3]))
    return Source(name, dims[1] * dims[2] * dims[3], int(attribute(node, "group", 1)), window)


def in_groups(sites: list[Site], most_bytes: int) -> Iterator[list[Site]]:
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
