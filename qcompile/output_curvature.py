# SPDX-License-Identifier: Apache-2.0
"""output_curvature: how much the network's loss cares for each layer's outputs, and their pairs.

K-FAC (Martens and Grosse 2015, section 3) takes the Fisher matrix of a layer's weight as G ⊗ A, A =
E[x xᵀ] of its inputs, G = E[g gᵀ] of the gradients g of the loss by its outputs. QuartDepth (Shen
et al. 2025, its weight reconstruction) rounds by (w − ŵ)ᵀ (G ⊗ A) (w − ŵ) in place of the plain
squared error of the outputs, where G is the unit matrix. Rows of inputs give A; this gives G.

Where the outputs' loss is a divergence, g is that of a label drawn from the network's own
distribution, which makes it the Fisher matrix. Where it is a squared error, g is what a normal
random direction of the outputs gives: G is then that of the Gauss-Newton matrix, and the same for
any calibration without labels. The scale of G does not count: its mean diagonal is 1.

Deviation: the quantized network gives g, whose layers in front have errors already.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Feed
from qcompile.division import Division
from qcompile.plan import Plan
from qcompile.rebuilt_layer import RebuiltLayer
from qcompile.reverse import Tape
from qcompile.reverse_products import Real
from qcompile.tunable import tunables
from qcompile.tuning_loss import Loss, logarithms
from qcompile.tuning_teacher import Teacher, losses_of_tape

_DRAWS = 4  # directions or labels of each sample


def output_curvatures(
    quantized: ir.Model,
    normalised: ir.Model,
    plan: Plan,
    layers: Iterable[RebuiltLayer],
    feeds: list[Feed],
    division: Division,
    rng: np.random.Generator,
) -> dict[str, Real] | str:
    """G float32 [groups, N/groups, N/groups] by the value that holds a layer's sums, or why none.

    Layers whose sums no output depends on are left out.
    """
    tape = Tape.of(quantized, plan)
    if isinstance(tape, str):
        return tape
    losses = losses_of_tape(quantized, normalised, tape)
    teacher = Teacher(normalised, losses, tape.entries, division)
    leaves = {name: each.real() for name, each in tunables(tape).items()}
    groups = {layer.sums_here: (layer.source.group, layer.is_map) for layer in layers}
    totals: dict[str, NDArray[np.float64]] = {}
    for feed in feeds * _DRAWS:
        made = tape.run(leaves, teacher.answer(feed)[0], keeps=True)
        seeds = {
            n: drawn(replace(losses[n], variance=_variance(y)), y, rng) for n, y in made.items()
        }
        found = tape.reverse(seeds, watched=groups)
        for name, (group, is_map) in groups.items():
            if name in found:
                square = _squares(found[name], group, is_map=is_map)
                totals[name] = totals[name] + square if name in totals else square
    return {name: _normal(total) for name, total in totals.items()}


def drawn(loss: Loss, made: Real, rng: np.random.Generator) -> Real:
    """By an output: of a label of each distribution, or a direction.

    The mean of g gᵀ over draws is the loss's Gauss-Newton matrix, of KL alone where both count.
    """
    if loss.axis is None:
        unit = np.sqrt(max(made.size, 1) * loss.variance / 2)
        return rng.standard_normal(made.shape, np.float32) / np.float32(unit)
    share = np.exp(logarithms(made, loss.axis))
    below = share.cumsum(loss.axis) < rng.random(
        [1 if i == loss.axis % made.ndim else d for i, d in enumerate(made.shape)]
    )
    label = np.minimum(below.sum(loss.axis, keepdims=True), made.shape[loss.axis] - 1)
    found = share
    np.put_along_axis(found, label, np.take_along_axis(found, label, loss.axis) - 1, loss.axis)
    count = max(made.size // made.shape[loss.axis], 1)
    return (found / np.sqrt(count)).astype(np.float32)


def _variance(made: Real) -> float:
    return max(float(made.var(dtype=np.float64)), 2.0**-126)


def _squares(gradient: Real, groups: int, *, is_map: bool) -> NDArray[np.float64]:
    """Σ g gᵀ over all places, [groups, n, n]."""
    wide = np.moveaxis(gradient, 1, -1) if is_map else gradient
    rows = wide.reshape(-1, groups, wide.shape[-1] // groups).swapaxes(0, 1)
    return np.asarray((rows.swapaxes(1, 2) @ rows).astype(np.float64))


def _normal(total: NDArray[np.float64]) -> Real:
    """With a mean diagonal of 1; the unit matrix where nothing came."""
    mean = float(np.einsum("gnn->gn", total).mean())
    if not mean > 0 or not np.isfinite(total).all():
        return np.broadcast_to(np.eye(total.shape[1], dtype=np.float32), total.shape)
    return (total / mean).astype(np.float32)
