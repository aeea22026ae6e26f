# SPDX-License-Identifier: Apache-2.0
"""rotate: edges of the float model are turned by orthogonal matrices where that helps the codes.

A rotation spreads what is large in one channel over all of them, so that the other channels keep
more of their precision (QuaRot, Ashkboos et al. 2024; SpinQuant, Liu et al. 2024). The outputs of
the float model stay. An edge is turned only where the products that read it, quantized as planned,
have a smaller error on the calibration data; of a few random matrices the best is taken.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division
from qcompile.graph import is_op
from qcompile.numerics.hadamard import LARGEST_FACTOR, Rotation, split_size
from qcompile.plan import NodePlan, Plan
from qcompile.recipe import Recipe
from qcompile.rotatable import Edge, edges
from qcompile.rotated_weights import Turned, is_even, shift_refusal, turn
from qcompile.rotation_error import Product, figures, sample_rows
from qcompile.rotation_paths import weight_place
from qcompile.rotation_rows import RotationRow

TRIALS = 4  # matrices that are tried
GAIN = 0.1  # the share of the error that has to go
ENOUGH_DB = 30.0  # where the outputs are this good already (1/1000 of the power), nothing is done
MOST_GROWTH = 0.25  # of the weights, by a table that no longer is the head's; one more bit of 4
NO_DATA = "no calibration data was given, which decides"
WITH_DATA = "the error on the calibration data decides"


@dataclass(frozen=True)
class Rotated:
    """The model, turned or as it was, and what was decided about every edge."""

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
    usable = [edge for edge, row in rated if not row.reason]
    if not usable or data is None:
        return Rotated(model, tuple(row for _, row in rated))
    rows = sample_rows(model, _sampled(usable), data, division, recipe.seed)
    weights = Turned(copy.graph)
    decided = []
    for edge, row in rated:
        if not row.reason:
            row, rotation = _decide(edge, row, plan, recipe, rows)
            if rotation is not None:
                turn(copy, edge, rotation, weights)
        decided.append(row)
    result = Rotated(copy, tuple(decided))
    weights.remove_unread()
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
    found = [(edge, _quantized_readers(edge, plan)) for edge in edges(model.graph)]
    rated = [(edge, refusal(edge, readers, plan)) for edge, readers in found if readers]
    if has_data:
        return rated
    return [(edge, row if row.reason else replace(row, reason=NO_DATA)) for edge, row in rated]


def _quantized_readers(edge: Edge, plan: Plan) -> list[NodePlan]:
    planned = [plan.nodes.get(reader.node.name or "") for reader in edge.readers]
    return [p for p in planned if p is not None and p.is_rounded]


def refusal(edge: Edge, readers: list[NodePlan], plan: Plan) -> RotationRow:
    """The row of an edge; with a reason where nothing is to be measured."""
    names = tuple(p.node for p in readers)
    row = RotationRow(edge.name, edge.kind, names, size=edge.block)
    reason = edge.reason or shift_refusal(edge)
    factor, _ = split_size(max(edge.block, 1))
    if not reason and factor > LARGEST_FACTOR:
        reason = f"its size {edge.block} has the odd factor {factor}, above {LARGEST_FACTOR}"
    if reason:
        return replace(row, reason=reason)
    rotation = Rotation(edge.block, 0, edge.is_centred)
    row = replace(row, transform=rotation.text)
    added, total = untied_bytes(edge, plan)
    if added > MOST_GROWTH * total:
        grown = f"{added / 1000:.1f} kB to {total / 1000:.1f} kB of weights"
        return replace(row, reason=f"a table apart from the head would add {grown}")
    return row


def untied_bytes(edge: Edge, plan: Plan) -> tuple[float, float]:
    """Bytes of codes of the weights that would be there more than once, and of all weights."""
    changes: dict[str, set[bytes | None]] = {}
    places: dict[str, set[ir.Node]] = {}
    touched = [(r.node, r.norm) for r in edge.readers] + [(w.node, None) for w in edge.writers]
    for node, norm in touched:
        owner, index = weight_place(node)
        value = owner.inputs[index]
        assert value is not None
        key = None if norm is None or is_even(norm) else norm.gamma.tobytes()
        changes.setdefault(value.name or "", set()).add(key)
        places.setdefault(value.name or "", set()).add(owner)
        if {use.node for use in value.uses()} - places[value.name or ""]:
            changes[value.name or ""] |= {b"others"}
    for node, _ in touched:
        owner, index = weight_place(node)
        value = owner.inputs[index]
        assert value is not None
        if not {use.node for use in value.uses()} - places[value.name or ""]:
            changes[value.name or ""] -= {b"others"}
    sizes = {p.weight_name: p.num_elements * _bits(p) / 8 for p in plan.nodes.values()}
    added = sum(sizes.get(name, 0.0) * (len(keys) - 1) for name, keys in changes.items())
    return added, sum(sizes.values())


def _bits(plan: NodePlan) -> int:
    return 32 if plan.weight is None else plan.weight.bits


def _sampled(usable: list[Edge]) -> dict[str, int]:
    """What readers read, or what the norm before them does → the size of its last axis."""
    found: dict[str, int] = {}
    for edge in usable:
        for reader in edge.readers:
            value = reader.node.inputs[0] if reader.norm is None else reader.norm.source
            assert value is not None
            found[value.name or ""] = edge.width
    return found


def _decide(
    edge: Edge, row: RotationRow, plan: Plan, recipe: Recipe, rows: dict[str, NDArray[np.float32]]
) -> tuple[RotationRow, Rotation | None]:
    """The row with what was measured, and the best matrix where it is good enough."""
    products = []
    for reader in edge.readers:
        planned = plan.nodes.get(reader.node.name or "")
        if planned is None or not planned.is_rounded:
            continue
        value = reader.node.inputs[0] if reader.norm is None else reader.norm.source
        assert value is not None
        found = rows[value.name or ""]
        if not len(found) or not np.isfinite(found).all():
            return replace(row, reason=f"{value.name} has no finite samples"), None
        products.append(Product.of(reader.node, reader.norm, found, planned))
    error, before = figures(products, None, recipe)
    row = replace(row, before=before)
    if before.sqnr_db >= ENOUGH_DB:
        reason = f"its readers have {before.sqnr_db:.1f} dB already, {ENOUGH_DB:g} are enough"
        return replace(row, reason=reason), None
    tried = []
    for trial in range(TRIALS):
        rotation = Rotation(edge.block, recipe.seed * TRIALS + trial, edge.is_centred)
        tried.append((*figures(products, rotation, recipe), rotation))
    best, after, rotation = min(tried, key=lambda each: each[0])
    row, gain = replace(row, after=after), 1 - best / error
    if gain < GAIN:
        return replace(row, reason=f"the error falls by {100 * gain:.0f} %, below 10 %"), None
    return replace(row, is_applied=True, seed=rotation.seed, reason=_cost(edge, plan)), rotation


def _cost(edge: Edge, plan: Plan) -> str:
    """What is stored twice from now on."""
    added, _ = untied_bytes(edge, plan)
    if not added:
        return ""
    tables = [w.node.name for w in edge.writers if is_op(w.node, "Gather")]
    which = ", ".join(str(name) for name in tables)
    return f"{which} and the head are two tensors now: {added / 1000:.1f} kB of codes more"
