# SPDX-License-Identifier: Apache-2.0
"""code_step: a step of few codes down the gradient of a loss, the V step of PV-Tuning.

Malinovskii et al. 2024 (PV-Tuning, section 3.3): a small step of all codes rounds back to where it
began, so a large step is taken in the subspace of the few weights with the largest gradients, and
these go to the codes nearest to

    W* = W − η ∂loss/∂W

η is the least that moves each of the chosen by a level. Codes of more than one weight, which the
paper finds by beam search, do not exist here: the nearest code is the exact answer. Deviation:
the paper's η comes from Adam and a trust ratio and may leave the chosen where they are.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.grid import Grid, Real

_BEYOND = 1 + 2.0**-10  # half a level is a tie


def code_step(coded: CodedWeight, gradient: NDArray[np.float32], count: int) -> CodedWeight:
    """The weight [N, K] with at most so many codes moved; gradient [N, K] by its reals.

    Weights whose codes end on the side that the gradient points away from cannot be chosen.
    """
    low = coded.format.quantized_range(symmetric=True)[0]
    is_full = coded.zero_point is not None or bool(coded.codes.min(initial=0) < low)
    grid = Grid.of(coded, 1, is_full=is_full)
    codes, slope = coded.codes[None], gradient[None].astype(np.float64)
    gap = _gaps(grid, codes, slope)
    size = np.where(np.isfinite(gap), np.abs(slope), 0)
    count = min(count, int((size > 0).sum()))
    if not count:
        return coded
    chosen = np.argsort(-size, axis=None, kind="stable")[:count]
    step = _BEYOND * float((gap.ravel()[chosen] / 2 / size.ravel()[chosen]).max())
    wanted = (grid.real(codes) - step * slope).ravel()[chosen]
    flat = replace(
        grid,
        scale=grid.scale.ravel()[chosen],
        zero_point=grid.zero_point.ravel()[chosen],
    )
    moved = coded.codes.copy()
    moved.ravel()[chosen] = flat.codes(wanted)
    return replace(coded, codes=moved)


def _gaps(grid: Grid, codes: NDArray[np.int16], slope: Real) -> Real:
    """How far the next level down the slope is, in reals; infinite where there is none."""
    low, high = grid.format.quantized_range(symmetric=not grid.is_full)
    values = np.unique(
        grid.format.values[low - grid.format.code_min : high - grid.format.code_min + 1]
    )
    own = grid.format.values[codes - grid.format.code_min]
    at = np.searchsorted(values, own)
    next_one = at - np.sign(slope * grid.scale).astype(np.int64)
    exists = (next_one >= 0) & (next_one < len(values)) & (next_one != at)
    other = values[np.clip(next_one, 0, len(values) - 1)]
    gap = np.abs((other.astype(np.float64) - own) * grid.scale)
    return np.where(exists, gap, np.inf)
