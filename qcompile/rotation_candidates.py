# SPDX-License-Identifier: Apache-2.0
"""What is tried on an edge, and how much of the error has to go for it."""

from collections.abc import Iterator
from dataclasses import replace

from qcompile.equalisable import weight_ranges
from qcompile.learn_rotation import learn
from qcompile.norm_outputs import can_move
from qcompile.numerics.hadamard import Rotation
from qcompile.numerics.ordering import Ordering
from qcompile.numerics.scaling import Moving, Scaling
from qcompile.recipe import Recipe
from qcompile.rotation_edge import Edge
from qcompile.rotation_rows import RotationRow
from qcompile.transform_choice import (
    Halves,
    Judged,
    Make,
    best_of,
    haars,
    movings,
    orders,
    scalings,
)

TRIALS = 4  # random matrices
GAIN, ONLINE_GAIN = 0.1, 0.25  # the share of the error that has to go
SCALE_GAIN = 0.25  # less was gone again with codes by descent (a ViT: 8 to 12 %, then nothing)
EQUAL_GAIN = 0.5  # 3 dB, between convolutions: ResNets gained nothing by 1.5 to 2.9 dB, one lost
MOVE_GAIN = 0.15  # of a norm; a ViT of 8-bit digits at w4a4: 16.3 to 17.1 dB
SORT_GAIN = 0.1  # of 5 % nothing was left on a ViT at w4a16 (34.0 to 33.7 dB)


def candidates(edge: Edge, make: Make, halves: Halves, recipe: Recipe) -> Iterator[Judged]:
    """The best of each kind that passes: rotations, Haar's, scales where no norm is; or orders."""
    if edge.is_sorted:
        yield best_of(make, halves, orders(make, halves, edge.block), recipe)
        return
    if not edge.bend:
        tried = [Rotation(edge.block, seed, edge.is_centred) for seed in seeds(recipe)]
        best = best_of(make, halves, tried, recipe)
        yield best
        if recipe.rotation == "learned" and isinstance(best.turning, Rotation):
            learned = learn(best.turning, make, halves, recipe)
            yield from [best_of(make, halves, [learned], recipe)] if learned else []
        if not edge.is_centred and (paired := haars(make, halves, edge.block)):
            yield best_of(make, halves, paired, recipe)
    if not edge.norms:
        written = weight_ranges(edge) if edge.is_equal else None
        yield best_of(make, halves, scalings(make, halves, edge.block, written), recipe)
    if edge.is_normed and can_move(edge):
        yield best_of(make, halves, movings(make, halves), recipe)


def seeds(recipe: Recipe) -> list[int]:
    """Of the random matrices."""
    return [recipe.seed * TRIALS + trial for trial in range(TRIALS)]


def least(edge: Edge, candidate: Judged) -> float:
    """The share of the error that has to go."""
    if edge.is_equal:
        return EQUAL_GAIN
    if isinstance(candidate.turning, Ordering):
        return SORT_GAIN
    if isinstance(candidate.turning, Moving):
        return MOVE_GAIN
    return SCALE_GAIN if isinstance(candidate.turning, Scaling) else GAIN


def judged(row: RotationRow, gain: float, least: float) -> RotationRow:
    """Applied where enough of the error goes."""
    if gain >= least:
        return replace(row, is_applied=True)
    how = "at run time the error" if row.is_online else "the error"
    what = f"falls by {100 * gain:.0f} %" if gain > 0 else f"rises by {-100 * gain:.0f} %"
    return replace(row, reason=f"{how} {what}; {100 * least:.0f} % less is asked")
