# SPDX-License-Identifier: Apache-2.0
"""code_step: a step of few codes down the gradient of a loss, the V step of PV-Tuning.

Malinovskii et al. 2024 (PV-Tuning, section 3.3): a small step of all codes rounds back to where it
began, so a large step is taken in the subspace of few weights, and these go to the codes nearest to

    W* = W − g / L,        g = ∂loss/∂W

which are the best ones for the bound g Δ + L Δ² / 2 of what they change. Codes of more than one
weight, which the paper finds by beam search, do not exist here: the nearest code is the exact
answer.

Deviations: L is that of each weight, the diagonal of the loss's Gauss-Newton matrix, and the few
are those whose bound falls most; the paper has one L, and takes the largest gradients. Of codes of
two bits, which were found by descent, these have the largest L, too: one of them moved by a level
raises the loss of ResNet-20 (docs/results.md).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.grid import Grid


def code_step(
    coded: CodedWeight,
    gradient: NDArray[np.float32],
    curvature: NDArray[np.float32],
    count: int,
) -> CodedWeight:
    """The weight [N, K] with at most so many codes moved, each for a bound below 0.

    gradient and curvature [N, K]: g and L by the weight's reals; where L is 0 nothing moves.
    """
    low = coded.format.quantized_range(symmetric=True)[0]
    is_full = not coded.format.is_table and coded.zero_point is not None
    is_full = is_full or bool(coded.codes.min(initial=0) < low)
    grid = Grid.of(coded, 1, is_full=is_full)
    old, slope = grid.real(coded.codes[None]), gradient[None].astype(np.float64)
    bend = curvature[None].astype(np.float64)
    known = bend > 0
    wanted = old - np.where(known, slope, 0) / np.where(known, bend, 1)
    codes = grid.codes(wanted)
    change = grid.real(codes) - old
    bound = ((slope + bend * change / 2) * change)[0]
    chosen = np.argsort(bound, axis=None, kind="stable")[:count]
    chosen = chosen[bound.ravel()[chosen] < 0]
    if not chosen.size:
        return coded
    moved = coded.codes.copy()
    moved.ravel()[chosen] = codes.ravel()[chosen]
    return replace(coded, codes=moved)
