# SPDX-License-Identifier: Apache-2.0
"""GPTQ: codes whose errors make up for one another on the inputs that the layer really gets.

Frantar et al. 2022, with act-order and static groups: scales and zero points are given, columns are
rounded in the order of falling diag(H), H = E[x xᵀ], and every column first takes over what the
rounded ones left. With H = R Rᵀ, R upper triangular, the best continuous value of column i, given
the errors δ of the columns before it, is

    w_i + Σ_{j<i} δ_j · R[j, i] / R[i, i]

so neither H⁻¹ nor a rewritten W is needed (the same codes as the paper's update).
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.quantize import dequantize, quantize
from qcompile.numerics.weight import CodedWeight

DAMPING = 0.01  # of the mean diagonal, as in the paper
_LARGEST_DAMPING = 1.0
_COLUMNS = 128  # columns rounded between two matrix products
_ROWS_BYTES = 16 << 20  # float64 rows of a weight at a time; rows do not depend on one another


def compensate(
    weight: NDArray[np.float32],
    nearest: CodedWeight,
    hessian: NDArray[np.float32],
    *,
    symmetric: bool,
) -> CodedWeight | None:
    """The weight [N, K] in the scales of `nearest`, its errors compensated; None: H has no use.

    hessian [groups, K, K]: group g belongs to rows g·N/groups … of the weight (a grouped Conv). A
    column that no input reaches has only the damping on its diagonal and goes to the nearest code.
    """
    n, k = weight.shape
    group = len(hessian)
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    carry = _carry(hessian, order)
    if carry is None or nearest.scale is None:
        return None
    codes = np.empty((group, n // group, k), np.int16)
    places = np.arange(n).reshape(group, n // group)
    step = max(1, _ROWS_BYTES // (8 * k * group))
    for i in range(0, n // group, step):
        at = places[:, i : i + step]
        part = nearest.rows(at.ravel())
        assert part.scale is not None
        point = part.zero_point
        points = np.zeros((at.size, 1), np.int16) if point is None else part.per_column(point)
        moved = [
            np.take_along_axis(
                np.broadcast_to(each, (at.size, k)).reshape(*at.shape, k), order[:, None, :], 2
            )
            for each in (weight[at.ravel()], part.per_column(part.scale), points)
        ]
        found = _round((moved[0], moved[1], moved[2]), carry, nearest.format, symmetric=symmetric)
        np.put_along_axis(codes[:, i : i + step], order[:, None, :], found, 2)
    return CodedWeight(
        codes.reshape(n, k),
        nearest.scale,
        nearest.zero_point,
        nearest.format,
        nearest.block_size,
        nearest.scale_format,
    )


def output_error(
    weight: NDArray[np.float32], coded: CodedWeight, rows: NDArray[np.float32]
) -> float:
    """Σ ((Ŵ − W) x)² over inputs [num, groups, K], float64."""
    group, k = rows.shape[1:]
    inputs = rows.transpose(1, 0, 2).astype(np.float64)
    n = len(weight) // group
    step = max(1, _ROWS_BYTES // (8 * max(len(rows), 1) * group))
    total = 0.0
    for i in range(0, n, step):
        part = np.arange(len(weight)).reshape(group, n)[:, i : i + step].ravel()
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


def _round(
    parts: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]],
    carry: NDArray[np.float64],
    format: Format,
    *,
    symmetric: bool,
) -> NDArray[np.int16]:
    """Codes of the columns one after the other.

    parts: weight, scale and zero point, [groups, rows, K] in the order of rounding.
    """
    weight, scale, zero_point = parts
    k = weight.shape[2]
    codes = np.empty(weight.shape, np.int16)
    errors = np.zeros(weight.shape)
    for start in range(0, k, _COLUMNS):
        stop = min(start + _COLUMNS, k)
        work = weight[..., start:stop] + errors[..., :start] @ carry[:, :start, start:stop]
        for i in range(start, stop):
            at = (scale[..., i], zero_point[..., i], format)
            real = work[..., i - start].astype(np.float32)
            codes[..., i] = quantize(real, *at, symmetric=symmetric)
            errors[..., i] = weight[..., i] - dequantize(codes[..., i], *at).astype(np.float64)
            rest = carry[:, None, i, i + 1 : stop]
            work[..., i - start + 1 :] += errors[..., i, None] * rest
    return codes
