# SPDX-License-Identifier: Apache-2.0
"""GPTQ: codes whose errors make up for one another on the inputs that the layer really gets.

Frantar et al. 2022, with act-order and static groups: scales and zero points are given, columns are
rounded in the order of falling diag(H), H = E[x xᵀ], and every column first takes over what the
rounded ones left. With H = R Rᵀ, R upper triangular, the best continuous value of column i, given
the errors δ of the columns before it, is

    w_i + Σ_{j<i} δ_j · R[j, i] / R[i, i]

so neither H⁻¹ nor a rewritten W is needed (the same codes as the paper's update).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.grid import Grid, Real
from qcompile.spec import QuantSpec

DAMPING = 0.01  # of the mean diagonal, as in the paper
_LARGEST_DAMPING = 1.0
_COLUMNS = 128  # columns rounded between two matrix products
_ROWS_BYTES = 16 << 20  # float64 rows of a weight at a time; rows do not depend on one another


@dataclass(frozen=True)
class Factor:
    """The order of rounding [groups, K] and R[j, i] / R[i, i] in it, [groups, K, K]."""

    order: NDArray[np.int64]
    carry: Real

    @classmethod
    def of(cls, hessian: NDArray[np.float32]) -> "Factor | None":
        """None where nothing can be factored."""
        order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
        carry = _carry(hessian, order)
        return None if carry is None else cls(order, carry)

    def codes(self, weight: NDArray, grid: Grid) -> NDArray[np.int16]:
        """Codes of rows [groups, rows, K], which make up for one another's errors."""
        at = self.order[:, None, :]
        moved = np.take_along_axis(weight, at, 2)
        codes = np.empty(weight.shape, np.int16)
        np.put_along_axis(codes, at, _round(moved, grid.ordered(self.order), self.carry), 2)
        return codes


def gptq(
    weight: NDArray[np.float32],
    nearest: CodedWeight,
    hessian: NDArray[np.float32],
    spec: QuantSpec,
    *,
    is_signed: bool = True,
) -> CodedWeight | None:
    """The weight [N, K] in the scales of `nearest`, its errors compensated; None: H has no use.

    hessian [groups, K, K]: group g belongs to rows g·N/groups … of the weight (a grouped Conv). A
    column that no input reaches has only the damping on its diagonal and goes to the nearest code.
    is_signed: of no use here, where scales are given.
    """
    factor = Factor.of(hessian)
    if factor is None or nearest.scale is None:
        return None
    codes = np.empty(weight.shape, np.int16)
    for rows in row_groups(weight.shape, len(hessian)):
        grid = Grid.of(nearest.rows(rows), len(hessian), is_full=not spec.is_symmetric)
        part = weight[rows].reshape(grid.scale.shape)
        codes[rows] = factor.codes(part, grid).reshape(len(rows), -1)
    return replace(nearest, codes=codes)


def row_groups(
    shape: tuple[int, ...], groups: int, most_bytes: int = _ROWS_BYTES
) -> list[NDArray[np.int64]]:
    """Indices of rows of a weight [N, K] to work on at a time: as many of each group, group-wise.

    most_bytes: of their float64 values.
    """
    n, k = shape
    places = np.arange(n).reshape(groups, n // groups)
    step = max(1, most_bytes // (8 * max(k, 1) * groups))
    return [places[:, i : i + step].ravel() for i in range(0, n // groups, step)]


def output_error(
    weight: NDArray[np.float32], coded: CodedWeight, rows: NDArray[np.float32]
) -> float:
    """Σ ((Ŵ − W) x)² over inputs [num, groups, K], float64."""
    group, k = rows.shape[1:]
    inputs = rows.transpose(1, 0, 2).astype(np.float64)
    total = 0.0
    for part in row_groups((len(weight), max(len(rows), 1)), group):
        error = coded.rows(part).decode().astype(np.float64) - weight[part]
        turned = error.reshape(group, -1, k).transpose(0, 2, 1)
        total += float(np.square(inputs @ turned).sum())
    return total


def _carry(hessian: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """R[j, i] / R[i, i] of every group in its order; None where nothing can be factored.

    R comes from the Cholesky factor of H with rows and columns reversed.
    """
    if not np.isfinite(hessian).all():
        return None
    reverse = order[:, ::-1]
    wide = np.take_along_axis(hessian, reverse[:, :, None], 1)
    wide = np.take_along_axis(wide, reverse[:, None, :], 2).astype(np.float64)
    diagonal = np.einsum("gkk->gk", wide)  # a view
    mean = diagonal.mean(1, keepdims=True)
    if not (mean > 0).any():
        return None
    mean = np.where(mean > 0, mean, 1)
    damping = DAMPING
    diagonal += damping * mean
    while damping <= _LARGEST_DAMPING:
        try:
            upper = np.linalg.cholesky(wide)[:, ::-1, ::-1]
            return np.asarray(upper / np.einsum("gkk->gk", upper)[:, None, :])
        except np.linalg.LinAlgError:
            diagonal += 9 * damping * mean
            damping *= 10
    return None


def _round(weight: NDArray, grid: Grid, carry: Real) -> NDArray[np.int16]:
    """Codes of the columns one after the other, all in the order of rounding."""
    k = weight.shape[2]
    codes = np.empty(weight.shape, np.int16)
    errors = np.zeros(weight.shape)
    for start in range(0, k, _COLUMNS):
        stop = min(start + _COLUMNS, k)
        work = weight[..., start:stop] + errors[..., :start] @ carry[:, :start, start:stop]
        for i in range(start, stop):
            at = grid.at(i)
            codes[..., i] = at.codes(work[..., i - start])
            errors[..., i] = weight[..., i] - at.real(codes[..., i])
            rest = carry[:, None, i, i + 1 : stop]
            work[..., i - start + 1 :] += errors[..., i, None] * rest
    return codes
