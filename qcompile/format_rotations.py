# SPDX-License-Identifier: Apache-2.0
"""Turn the inputs of products whose weight's format asks for it, and the weights with them.

W · R in codes has the error of what R leaves nearly normal, and x Wᵀ = (x R)(W R)ᵀ: the inputs are
turned, once a row, in place of the weights (formats/rotated.py). A format means it, so nothing is
measured. The signs come from the recipe's seed; every round has its own.
"""

from dataclasses import replace

import onnx_ir as ir

from qcompile.formats import Format
from qcompile.numerics.hadamard import Hadamard
from qcompile.online_rotation import insert
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.rotate import INPUT, Rotated
from qcompile.rotated_weights import Turned
from qcompile.rotation_paths import last_size
from qcompile.rotation_rows import RotationRow


def rounds_of(format: Format, size: int, seed: int) -> list[Hadamard]:
    """The rotations of rows [..., size], first to last; blocks are no longer than the row.

    >>> from qcompile.formats import get
    >>> (
    ...     [r.block for r in rounds_of(get("itq3"), 1000, 0)],
    ...     [r.block for r in rounds_of(get("tq2"), 1000, 0)],
    ... )
    ([256], [512, 512])
    """
    assert format.turns is not None
    widest = Hadamard.widest(size, 0).block
    block = min(format.turns.block or widest, widest)
    first = seed * format.turns.rounds
    return [Hadamard(size, block, first + number) for number in range(format.turns.rounds)]


def turn_formats(model: ir.Model, plan: Plan, recipe: Recipe) -> Rotated:
    """The model with such inputs turned; the one that was given stays as it is."""
    if not any(p.weight is not None and p.weight.format.turns for p in plan.nodes.values()):
        return Rotated(model, ())
    copy = model.clone()
    weights, rows = Turned(copy.graph), []
    for (value, format), nodes in _groups(copy.graph, plan).items():
        size = last_size(value)
        assert size is not None
        turns = rounds_of(format, size, recipe.seed)
        names = tuple(n.name or "" for n in nodes)
        text = "; ".join(turn.text for turn in turns)
        row = RotationRow(value.name or "", INPUT, names, text, size, turns[0].seed)
        for turn in turns:
            source = nodes[0].inputs[0]
            assert source is not None
            insert(source, nodes, turn, weights)
        rows.append(replace(row, is_applied=True, is_online=True, reason=f"format {format}"))
    weights.remove_unread()
    return Rotated(copy, tuple(rows))


def _groups(graph: ir.Graph, plan: Plan) -> dict[tuple[ir.Value, Format], list[ir.Node]]:
    """Input and format → the products that read both."""
    found: dict[tuple[ir.Value, Format], list[ir.Node]] = {}
    for node in graph:
        planned = plan.nodes.get(node.name or "")
        weight = planned.weight if planned is not None and planned.is_rounded else None
        if weight is not None and weight.format.turns is not None and node.inputs[0] is not None:
            found.setdefault((node.inputs[0], weight.format), []).append(node)
    return found
