# SPDX-License-Identifier: Apache-2.0
"""Descent: codes and scales in turn, each time the best ones for the others, after GPTQ.

Codes by cyclic coordinate descent on E[((Ŵ − W) x)²], as in QuantEase (Behdin et al. 2023, section
3): column i moves to the code nearest to the minimum of the quadratic, given all others,

    ŵ_i − ((Ŵ − W) H)_i / H_ii

which GPTQ, that never comes back to a column, does not do. Scales by least squares (fit_scales.py),
in the first place by a search where a row has one (search_scales.py). Both steps lower the error on
the calibration data or leave it; those of 8 bits, which lose little, keep GPTQ's.

Deviation from the paper, which starts from the nearest codes and keeps their scales.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.fit_scales import fit_scales
from qcompile.passes.transform.gptq import Factor, gptq, row_groups
from qcompile.passes.transform.grid import Grid, Real
from qcompile.passes.transform.search_scales import Search
from qcompile.spec import QuantSpec

ROUNDS = 3  # of scales and codes; each lowers the error or leaves it
_RIDGE = 1e-3  # of the mean diagonal: directions in which no sample moved are not free
_COLUMNS = 128  # columns that move between two matrix products
_ROWS_BYTES = 16 << 20


def descend(
    weight: NDArray[np.float32],
    nearest: CodedWeight,
    hessian: NDArray[np.float32],
    spec: QuantSpec,
    *,
    is_signed: bool = True,
) -> CodedWeight | None:
    """The weight [N, K] in codes and scales of its own; None: H has no use.

    hessian [groups, K, K] as in gptq. is_signed: whether a scale of a whole row may be
    negative.
    """
    if spec.bits == 8 or nearest.scale is None:
        return gptq(weight, nearest, hessian, spec)
    factor = Factor.of(hessian)
    if factor is None:
        return None
    wide = hessian.astype(np.float64)
    diagonal = np.einsum("gkk->gk", wide)  # a view
    diagonal += _RIDGE * diagonal.mean(1, keepdims=True) + np.finfo(np.float64).tiny
    search = None
    if spec.granularity == "axis" and spec.is_symmetric:
        search = Search.of(weight, nearest, factor, wide, is_signed=is_signed)
    codes, scale = np.empty(weight.shape, np.int16), np.empty_like(nearest.scale)
    copies = 1 if search is None else len(search.shares)
    held = max(weight.shape[1] * copies, nearest.num_blocks**2)
    for rows in row_groups((len(weight), held), len(hessian), _ROWS_BYTES):
        near = nearest.rows(rows)
        part = weight[rows].reshape(len(hessian), -1, weight.shape[1]).astype(np.float64)
        if search is not None:
            grid, found = search.best(part, near)
        else:
            grid = Grid.of(near, len(hessian), is_full=not spec.is_symmetric)
            found = factor.codes(part, grid)
        has_own_scales = spec.granularity != "tensor"
        for _ in range(ROUNDS):
            if has_own_scales:
                grid = fit_scales(part, grid, found, wide, near.block, near.scale_format)
            found = move_codes(part, grid, found, wide)
        codes[rows] = found.reshape(len(rows), -1)
        scale[rows] = grid.scale[..., :: near.block].reshape(len(rows), -1)
    return replace(nearest, codes=codes, scale=scale)


def move_codes(
    weight: Real, grid: Grid, codes: NDArray[np.int16], hessian: Real
) -> NDArray[np.int16]:
    """Every column of rows [groups, rows, K] once to its best code, given the others'."""
    codes, k = codes.copy(), weight.shape[2]
    errors = grid.real(codes) - weight
    for start in range(0, k, _COLUMNS):
        stop = min(start + _COLUMNS, k)
        slope = errors @ hessian[:, :, start:stop]
        for i in range(start, stop):
            row, at = hessian[:, None, i, start:stop], grid.at(i)
            wanted = (
                weight[..., i] + errors[..., i] - slope[..., i - start] / hessian[:, i, i, None]
            )
            codes[..., i] = at.codes(wanted)
            moved = at.real(codes[..., i]) - weight[..., i] - errors[..., i]
            errors[..., i] += moved
            slope += moved[..., None] * row
    return codes
