# SPDX-License-Identifier: Apache-2.0
"""reconstruct: codes of the QDQ graph again, layer by layer, on what the network before gives.

For every `--weight-rounding` with a rebuilder (rounding.py). Layers go in the order of the graph:
each is given inputs of the quantized network as rebuilt so far, and the float network's sums for
the same samples (Nagel et al. 2020, section 3.3; Hubara et al. 2020, section 3.1, sequential). What
is found is kept where the layer's error on held-out samples falls, and all of it only where that of
the network's outputs falls, too. Weights of 8 bits, shared ones and those of Gather stay.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.runtime_ops as runtime_ops
from qcompile.bodies import nodes_of
from qcompile.data import Data, Feed
from qcompile.division import Division
from qcompile.graph import DOMAIN
from qcompile.moments import Source
from qcompile.output_curvature import output_curvatures
from qcompile.passes.transform.layer_rows import LayerRows, Rebuilt, Setting
from qcompile.passes.transform.rounding import rounding_of
from qcompile.plan import Plan
from qcompile.rebuild_blocks import rebuild_blocks
from qcompile.rebuilt_layer import RebuiltLayer, layers_of
from qcompile.recipe import Recipe
from qcompile.session import with_outputs
from qcompile.tuned import Tuned, kept_if_better, open_rounded
from qcompile.tuning_samples import Samples

STEPS = {"quick": 500, "default": 2000, "best": 10000}  # of a layer; the paper takes 10,000
_ROWS, _HELD_ROWS = 16384, 4096  # of a layer, at most
_FEWEST_ROWS = 256
_ROW_COPIES = 24  # bytes of a number: three times float32, of rows and held-out ones
_SAMPLES = 32  # of a run


def reconstruct(
    quantized: ir.Model,
    normalised: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    division: Division,
) -> Tuned:
    """A rebuilt copy of the QDQ graph, or the graph where nothing is gained or asked."""
    word = recipe.weight_rounding
    if data is not None and rounding_of(word).is_by_block:
        return rebuild_blocks(quantized, normalised, plan, recipe, data, division)
    if data is None or not rounding_of(word).rebuilders:
        return Tuned(quantized)
    if any(n.domain == DOMAIN for n in nodes_of(quantized)) and not runtime_ops.is_available():
        return Tuned(quantized, f"no {word}: the op library is not installed")
    samples, held = Samples.of(data)
    if not held.count or not samples.count:
        return Tuned(quantized, f"no {word}: too few samples")
    copy = quantized.clone()
    work = _Work(copy, normalised, recipe, division, samples, held, not plan.is_integer_only)
    layers, kept = list(layers_of(copy, normalised, plan)), 0
    if rounding_of(word).is_curved:
        problem = work.measure_curvatures(layers, plan)
        if problem is not None:
            return Tuned(quantized, f"no {word}: {problem}")
    for number, layer in enumerate(layers):
        kept += work.rebuild(layer, number)
        if data.watch is not None:
            data.watch("layers", number + 1, len(layers))
    note = f"{word}: {kept} of {len(layers)} layers gained on held-out samples"
    if not kept:
        return Tuned(quantized, note)
    return kept_if_better(quantized, copy, normalised, note, held.feeds(work.per_run), division)


@dataclass(frozen=True)
class _Work:
    """What the layers share; model: the QDQ graph, rebuilt in place."""

    model: ir.Model
    normalised: ir.Model
    recipe: Recipe
    division: Division
    samples: Samples
    held: Samples
    is_signed: bool
    curvatures: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def per_run(self) -> int:
        """Samples of a run; of a fixed batch 1."""
        footprint = self.division.footprint
        each = footprint.live_bytes + 2 * max(footprint.sizes.values(), default=0)
        fitting = self.division.working_bytes // (2 * max(each, 1))
        return int(np.clip(fitting, 1, _SAMPLES if self.samples.batch.is_free else 1))

    def measure_curvatures(self, layers: list[RebuiltLayer], plan: Plan) -> str | None:
        """Of every layer, before any is rebuilt; a reason where there are none."""
        rng = np.random.default_rng([self.recipe.seed, len(layers)])
        try:
            found = output_curvatures(
                *(self.model, self.normalised, plan, layers),
                *(self.samples.feeds(self.per_run), self.division, rng),
            )
        except NotImplementedError as error:  # an op in a form that has no gradient here
            return f"{error} has no gradient here"
        if isinstance(found, str):
            return found
        self.curvatures.update(found)
        return None

    def rebuild(self, layer: RebuiltLayer, number: int) -> bool:
        """Put better numbers of the layer into the graph; whether there are any."""
        row = _ROW_COPIES * layer.source.group * layer.source.columns
        most = min(_ROWS, self.division.working_bytes // (2 * row))
        if most < _FEWEST_ROWS:
            return False
        rows, held = self._rows(layer, most, number)
        start, bias, recipe = layer.coded(), layer.bias(), self.recipe
        setting = Setting(
            *(layer.spec, recipe.weight_scale_method, self.is_signed, STEPS[recipe.effort]),
            np.random.default_rng([recipe.seed, number]),
        )
        best, least, is_better = Rebuilt(start, bias), held.error(start, bias), False
        for rebuilder in rounding_of(recipe.weight_rounding).rebuilders:
            rows, held = rows.scaled(best.input_scale), held.scaled(best.input_scale)
            found = rebuilder(layer.weight, best.weight, best.bias, rows, setting)
            codes = start.masked(found.weight.codes)
            found = replace(found, weight=replace(found.weight, codes=codes))
            error = held.scaled(found.input_scale).error(found.weight, found.bias)
            if error < least:
                scale = best.input_scale if found.input_scale is None else found.input_scale
                best, least, is_better = replace(found, input_scale=scale), error, True
        if is_better:
            layer.write(self.model, best)
        return is_better

    def _rows(self, layer: RebuiltLayer, most: int, number: int) -> tuple[LayerRows, LayerRows]:
        """Inputs of the rebuilt network and sums of the float one at the same places: to work on,
        and held-out ones.
        """
        samples, held = self.samples.feeds(self.per_run), self.held.feeds(self.per_run)
        limits = [-(-most // len(samples))] * len(samples)
        limits += [-(-min(most, _HELD_ROWS) // len(held))] * len(held)
        source, sums = layer.source, Source(layer.sums, len(layer.weight))
        both = zip(
            limits,
            self._values(self.model, layer.inputs, [*samples, *held]),
            self._values(self.normalised, layer.sums, [*samples, *held]),
            strict=True,
        )
        taken: list[list[NDArray]] = []
        for index, (limit, x, y) in enumerate(both):
            y = y if source.window is None else y.transpose(0, 2, 3, 1)
            taken.append([])
            for part, where in ((x, source), (y, sums)):
                wide = np.atleast_2d(np.ascontiguousarray(part, np.float32))
                rng = np.random.default_rng([self.recipe.seed, number, index])
                every = np.ones(len(wide), np.bool_)
                taken[-1].append(np.concatenate(list(where.rows(wide, every, limit, rng))))
        count, curvature = len(samples), self.curvatures.get(layer.sums_here)
        work_on, held_out = _joined(layer, taken[:count]), _joined(layer, taken[count:])
        return replace(work_on, curvature=curvature), replace(held_out, curvature=curvature)

    def _values(self, model: ir.Model, name: str, feeds: list[Feed]) -> Iterator[NDArray]:
        """A value of a graph for each feed."""
        if name in {v.name for v in model.graph.inputs}:
            yield from (feed[name] for feed in feeds)
            return
        cut = with_outputs(model, [name])
        session = open_rounded(cut) if model is self.model else self.division.open(cut)
        for feed in feeds:
            yield session.run([name], feed)[0]


def _joined(layer: RebuiltLayer, taken: list[list[NDArray]]) -> LayerRows:
    """Rows of several runs, each inputs [num, groups, K] and sums [num, 1, N]."""
    x, y = (np.concatenate(parts) for parts in zip(*taken, strict=True))
    y = y.reshape(len(y), layer.source.group, -1)
    return LayerRows(
        np.ascontiguousarray(x.transpose(1, 0, 2)),
        np.ascontiguousarray(y.transpose(1, 0, 2)),
        layer.bounds,
        layer.input_grid(),
        layer.float_bias(),
    )
