# SPDX-License-Identifier: Apache-2.0
"""rotate: edges of the float model are turned, or scaled, where that helps the codes.

A rotation spreads what is large in one channel over all of them, so that the other channels keep
more of their precision (QuaRot, Ashkboos et al. 2024; SpinQuant, Liu et al. 2024); scales move it
into the weights (SmoothQuant, Xiao et al. 2023). The outputs of the float model stay. An edge is
changed only where the products that read it, quantized as planned, have a smaller error on rows of
the calibration data that chose nothing; of a few random matrices and scales the best is taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division
from qcompile.equalisable import equal_edges
from qcompile.graph import ROOTS
from qcompile.norm_outputs import can_move, move, norm_edges
from qcompile.numerics.hadamard import LARGEST_FACTOR, Hadamard, Rotation, split_size
from qcompile.numerics.scaling import Moving
from qcompile.online_rotation import insert
from qcompile.plan import NodePlan, Plan
from qcompile.recipe import Recipe
from qcompile.rotatable import edges
from qcompile.rotatable_maps import map_edges
from qcompile.rotated_weights import Fused, Turned, shift_refusal, turn
from qcompile.rotation_candidates import ONLINE_GAIN, candidates, judged, least, seeds
from qcompile.rotation_cost import stored_twice, untied_bytes
from qcompile.rotation_edge import Edge
from qcompile.rotation_error import Product, figures, sample_rows
from qcompile.rotation_paths import last_size
from qcompile.rotation_rows import RotationRow
from qcompile.rotation_sources import key_of, name_of, online_inputs, sampled
from qcompile.sortable import has_blocks, sort_edges
from qcompile.transform_choice import Halves, best_of

ENOUGH_DB = 30.0  # where the outputs are this good already (1/1000 of the power), nothing is done
ONLINE_OUTPUTS = 20  # of a product take as long as rotating its input: 0.4 ns an element (Zen 4)
SCALES = "scales"
MOST_GROWTH = 0.25  # of the weights, by a table that no longer is the head's; one more bit of 4
INPUT = "product input"
NO_DATA = "no calibration data was given, which decides"
IN_CODES = "the model has codes of its own, which stay"
IN_ROOTS = "its readers are complex, which a rotation of the real numbers would mix"
WITH_DATA = "the error on the calibration data decides"


@dataclass(frozen=True)
class Rotated:
    """The model, changed or as it was, and what was decided about every edge."""

    model: ir.Model
    rows: tuple[RotationRow, ...]

    @property
    def is_changed(self) -> bool:
        """Whether anything was turned."""
        return any(row.is_applied for row in self.rows)


def rotate(
    model: ir.Model, plan: Plan, recipe: Recipe, data: Data | None, division: Division
) -> Rotated:
    """The rotated model for a plan of the normalised one, which it leaves as it is.

    Without data, or with rotation "off", nothing is turned; the rows say so.
    """
    copy = model.clone()
    rated = _rated(copy, plan, recipe, has_data=data is not None)
    if not rated or data is None:
        return Rotated(model, tuple(row for _, row in rated))
    rows = sample_rows(model, sampled(rated, plan), data, division, recipe.seed)
    work = _Work(plan, recipe, rows, Turned(copy.graph))
    decided: list[RotationRow] = []
    for edge, row in rated:
        made = work.decide(edge, row)
        work.taken.update(name for own in made if own.is_applied for name in own.readers)
        decided += made
    result = Rotated(copy, tuple(decided))
    work.weights.remove_unread()
    return result if result.is_changed else replace(result, model=model)


def planned(
    model: ir.Model, plan: Plan, recipe: Recipe, data: Data | None
) -> tuple[RotationRow, ...]:
    """What a compilation would decide about, or refuse already."""
    rows = (row for _, row in _rated(model, plan, recipe, has_data=data is not None))
    return tuple(row if row.reason else replace(row, reason=WITH_DATA) for row in rows)


def _rated(
    model: ir.Model, plan: Plan, recipe: Recipe, *, has_data: bool
) -> list[tuple[Edge, RotationRow]]:
    """Every edge that quantized products read, and its row, which has a reason where refused."""
    if recipe.rotation == "off" or not any(p.is_quantized for p in plan.nodes.values()):
        return []
    graph = model.graph
    every = [*edges(graph), *map_edges(graph), *equal_edges(graph), *norm_edges(graph)]
    found = [(edge, _quantized_readers(edge, plan)) for edge in every]
    ordered = [(edge, _quantized_readers(edge, plan)) for edge in sort_edges(graph)]
    found += [(edge, readers) for edge, readers in ordered if has_blocks(edge, readers)]
    rated = [(edge, refusal(edge, readers, plan)) for edge, readers in found if readers]
    if has_data:
        return rated
    return [(edge, row if row.reason else replace(row, reason=NO_DATA)) for edge, row in rated]


def _quantized_readers(edge: Edge, plan: Plan) -> list[NodePlan]:
    planned = [plan.nodes.get(reader.node.name or "") for reader in edge.readers]
    found = [p for p in planned if p is not None and p.is_rounded]
    return [p for p in found if p.weight is None or p.weight.format.turns is None]


def refusal(edge: Edge, readers: list[NodePlan], plan: Plan) -> RotationRow:
    """The row of an edge; with a reason where nothing is to be measured."""
    names = tuple(p.node for p in readers)
    row = RotationRow(edge.name, edge.kind, names, size=edge.block)
    is_coded = any(p.is_imported or p.is_exact for p in plan.nodes.values())
    has_roots = any(ROOTS in reader.node.metadata_props for reader in edge.readers)
    reason = IN_CODES if is_coded else IN_ROOTS if has_roots else edge.reason
    reason = reason or shift_refusal(edge)
    factor, _ = split_size(max(edge.block, 1))
    if not reason and factor > LARGEST_FACTOR and not (edge.bend or edge.is_sorted):
        reason = f"its size {edge.block} has the odd factor {factor}, above {LARGEST_FACTOR}"
    if reason:
        return replace(row, reason=reason)
    is_turned = not (edge.bend or edge.is_sorted)
    text = Rotation(edge.block, 0, edge.is_centred).text if is_turned else SCALES
    text = "order" if edge.is_sorted else text
    row = replace(row, transform=text)
    added, total = untied_bytes(edge, plan)
    if added > MOST_GROWTH * total:
        grown = f"{added / 1000:.1f} kB to {total / 1000:.1f} kB of weights"
        return replace(row, reason=f"a table apart from the head would add {grown}")
    return row


@dataclass(frozen=True)
class _Work:
    """What every decision needs: the samples, and the weights that it changes."""

    plan: Plan
    recipe: Recipe
    rows: dict[str, NDArray[np.float32]]
    weights: Turned
    taken: set[str] = field(default_factory=set)  # products that read what was turned or scaled

    def decide(self, edge: Edge, row: RotationRow) -> list[RotationRow]:
        """Turn the edge, or else the inputs of its products when the model runs, if that helps.

        Behind a function, where only scales pass, the rotation when the model runs comes first.
        """
        if edge.is_sorted or edge.is_normed or edge.is_equal:
            return [] if self.taken & set(row.readers) else [self._settled(edge, row)]
        if edge.bend and not row.reason:
            found = self._at_run_time(edge)
            if any(own.is_applied for own in found):
                why = f"{edge.bend} does not commute with a rotation"
                return [replace(own, kind=row.kind, reason=f"{why}; {own.reason}") for own in found]
        if not row.reason:
            row = self._settled(edge, row)
            if row.is_applied:
                return [row]
        found = [] if row.reason == IN_CODES or edge.bend else self._at_run_time(edge)
        if len(found) == 1:  # one row says both
            (own,) = found
            reason = "; ".join(dict.fromkeys(filter(None, (row.reason, own.reason))))
            is_measured = row.before is not None and not own.is_applied
            return [replace(row if is_measured else replace(own, kind=row.kind), reason=reason)]
        return [row, *found]

    def _settled(self, edge: Edge, row: RotationRow) -> RotationRow:
        """The row of an edge, which is changed where that helps."""
        if row.reason:
            return row
        row, best = self._fused(edge, row)
        if isinstance(best, Moving):
            move(edge, best, self.weights)
        elif best is not None:
            turn(edge, best, self.weights)
        return row

    def _at_run_time(self, edge: Edge) -> list[RotationRow]:
        return [self._online(v, nodes) for v, nodes in online_inputs(edge, self.plan).items()]

    def _fused(self, edge: Edge, row: RotationRow) -> tuple[RotationRow, Fused | Moving | None]:
        """The row with what was measured, and the best transform where it is good enough."""
        sources = []
        for reader in edge.readers:
            planned = self.plan.nodes.get(reader.node.name or "")
            if planned is not None and planned.is_rounded:
                sources.append((reader, self.rows[key_of(edge, reader)], planned))

        has_bias = (
            (edge.is_normed and can_move(edge)) or edge.is_equal
        ) and self.recipe.bias_correction

        def make(part: slice) -> Iterator[Product]:
            for reader, rows, planned in sources:
                product = Product.of(reader.node, reader.norm, rows[part], planned)
                yield replace(product, has_bias=has_bias)

        halves = Halves.of([rows for _, rows, _ in sources])
        row, error = self._before(row, [rows for _, rows, _ in sources], make(halves.held))
        if error is None:
            return row, None
        found = list(candidates(edge, make, halves, self.recipe))
        good = [each for each in found if 1 - each.mean / error >= least(edge, each)]
        best = min(good or found, key=lambda each: each.mean)
        turning = best.turning
        assert not isinstance(turning, Hadamard)
        row = replace(row, transform=turning.text, after=best.figures)
        row = judged(row, 1 - best.mean / error, least(edge, best))
        if not row.is_applied:
            return row, None
        seed = getattr(turning, "seed", None)
        return replace(row, seed=seed, reason=stored_twice(edge, self.plan)), turning

    def _online(self, value: ir.Value, nodes: list[ir.Node]) -> RotationRow:
        """The row of an input; where it gains the graph is changed."""
        names, size = tuple(n.name or "" for n in nodes), self._size(value)
        tried = [Hadamard.widest(size, seed) for seed in seeds(self.recipe)]
        row = RotationRow(name_of(value), INPUT, names, tried[0].text, size, is_online=True)
        outputs = sum(last_size(n.outputs[0]) or ONLINE_OUTPUTS for n in nodes)
        if outputs < ONLINE_OUTPUTS:
            what = f"its products have {outputs} outputs, and a rotation at run time takes as long"
            return replace(row, reason=f"{what} as {ONLINE_OUTPUTS}")
        rows = self.rows[name_of(value)]

        def make(part: slice) -> Iterator[Product]:
            for node in nodes:
                yield Product.of(node, None, rows[part], self.plan.nodes[node.name or ""])

        halves = Halves.of([rows])
        row, error = self._before(row, [rows], make(halves.held))
        if error is None:
            return row
        found = best_of(make, halves, tried, self.recipe)
        best = found.turning
        assert isinstance(best, Hadamard)
        row = judged(replace(row, after=found.figures), 1 - found.mean / error, ONLINE_GAIN)
        if row.is_applied:
            insert(value, nodes, best, self.weights)
            share = f"about {100 * ONLINE_OUTPUTS / outputs:.0f} % of its products' time"
            row = replace(row, seed=best.seed, reason=share)
        return row

    def _size(self, value: ir.Value) -> int:
        return self.rows[name_of(value)].shape[1]

    def _before(
        self, row: RotationRow, rows: list[NDArray[np.float32]], products: Iterator[Product]
    ) -> tuple[RotationRow, float | None]:
        """Figures of the edge as it is; no error where it is good enough, or there is no data."""
        if not all(len(part) and np.isfinite(part).all() for part in rows):
            return replace(row, reason="it has no samples, or NaN or infinity among them"), None
        ((error, before),) = figures(products, [None], self.recipe)
        row = replace(row, before=before)
        if before.sqnr_db >= ENOUGH_DB:
            reason = f"its products have {before.sqnr_db:.1f} dB; {ENOUGH_DB:g} are enough"
            return replace(row, reason=reason), None
        return row, error
