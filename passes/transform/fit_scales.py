# SPDX-License-Identifier: Apache-2.0
"""Scales of given codes by least squares on the inputs of the layer.

A row of the weight is ŵ = Σ_b s_b · u_b, u_b the codes of block b less their zero points. What
E[((ŵ − w) x)²] = (ŵ − w)ᵀ H (ŵ − w) asks of the scales are the normal equations

    Σ_c (u_bᵀ H u_c) s_c = u_bᵀ H w

of every row. The new scales are taken where they, as stored, give a smaller error.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.quantize import store_scale
from qcompile.passes.transform.grid import Grid, Real

_RIDGE = 1e-6  # of the mean diagonal: blocks whose codes are all zero


def fit_scales(
    weight: Real, grid: Grid, codes: NDArray[np.int16], hessian: Real, block: int, scale_format: str
) -> Grid:
    """The grid of rows [groups, rows, K] with the best scales for their codes; hessian [groups, K,
    K]. A scale keeps its sign.
    """
    units = grid.units(codes).astype(np.float64)
    gram, right = _equations(weight, units, hessian, block)
    diagonal = np.einsum("grbb->grb", gram)  # a view
    old = grid.scale[..., ::block].astype(np.float64)
    before = _error(gram, right, old)
    ridge = _RIDGE * diagonal.mean(2, keepdims=True) + np.finfo(np.float64).tiny
    diagonal += ridge
    fitted = np.linalg.solve(gram, (right + ridge * old)[..., None])[..., 0]
    diagonal -= ridge
    new = np.copysign(store_scale(np.abs(fitted), scale_format), old).astype(np.float64)
    new = np.where(fitted * old > 0, new, old)
    is_better = _error(gram, right, new) < before
    kept = np.where(is_better[..., None], new, old).astype(np.float32)
    return replace(grid, scale=np.repeat(kept, block, 2)[..., : weight.shape[2]])


def _equations(weight: Real, units: Real, hessian: Real, block: int) -> tuple[Real, Real]:
    """u_bᵀ H u_c [groups, rows, blocks, blocks] and u_bᵀ H w [groups, rows, blocks]."""
    starts = np.arange(0, weight.shape[2], block)
    gram = np.empty((*weight.shape[:2], len(starts), len(starts)))
    right = np.empty((*weight.shape[:2], len(starts)))
    for number, start in enumerate(starts):
        columns = slice(start, start + block)
        turned = units[..., columns] @ hessian[:, columns]
        gram[..., number, :] = np.add.reduceat(turned * units, starts, 2)
        right[..., number] = (turned * weight).sum(2)
    return gram, right


def _error(gram: Real, right: Real, scale: Real) -> Real:
    """sᵀ G s − 2 rᵀ s of every row: its error less that of zero scales."""
    turned = (gram @ scale[..., None])[..., 0]
    return np.asarray(((turned - 2 * right) * scale).sum(2))
