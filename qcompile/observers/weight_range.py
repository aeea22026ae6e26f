# SPDX-License-Identifier: Apache-2.0
"""Scales and zero points of weights, from extremes or by a search for the least squared error."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.quantize import dequantize, quantize, store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.spec import QuantSpec

_SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7, 0.65, 0.6, 0.5)
_ROWS_BYTES = 32 << 20


def code_weight(weight: NDArray[np.float32], spec: QuantSpec, method: str) -> CodedWeight:
    """Round-to-nearest codes of a weight [N, K]; method "minmax" or "mse".

    Works in slices of rows, so memory stays bounded. The mse search shrinks both ends of the range
    alike and refits the scale to the codes by least squares; it keeps the best of all that it
    tried, minmax among them.
    """
    n, k = weight.shape
    block = {"block": spec.block_size, "axis": max(k, 1)}.get(spec.granularity, max(k, 1))
    if spec.granularity == "tensor":
        scale, zero_point = _params(weight.reshape(1, 1, -1), spec, method)
        parts = [
            (np.repeat(scale, n, 0), None if zero_point is None else np.repeat(zero_point, n, 0))
        ]
    else:
        step = max(1, _ROWS_BYTES // (4 * max(k, 1)))
        parts = [
            _params(_blocks(weight[i : i + step], block), spec, method) for i in range(0, n, step)
        ]
    scales = np.concatenate([p[0] for p in parts])
    points = None if parts[0][1] is None else np.concatenate([p[1] for p in parts])
    codes = _codes(weight, scales, points, spec, block)
    block_size = spec.block_size if spec.granularity == "block" else 0
    return CodedWeight(codes, scales, points, spec.format, block_size, spec.scale_format)


def _blocks(rows: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """[rows, K] as [rows, num_blocks, block]; a short last block is filled with NaN."""
    missing = -rows.shape[1] % block
    wide = np.pad(rows, ((0, 0), (0, missing)), constant_values=np.nan) if missing else rows
    return wide.reshape(len(rows), -1, block)


def _codes(
    weight: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int16] | None,
    spec: QuantSpec,
    block: int,
) -> NDArray[np.int16]:
    out = np.empty(weight.shape, np.int16)
    step = max(1, _ROWS_BYTES // (4 * max(weight.shape[1], 1)))
    for i in range(0, len(weight), step):
        rows = slice(i, i + step)
        wide = np.repeat(scale[rows], block, axis=1)[:, : weight.shape[1]]
        points: NDArray | int = 0
        if zero_point is not None:
            points = np.repeat(zero_point[rows], block, axis=1)[:, : weight.shape[1]]
        out[rows] = quantize(weight[rows], wide, points, spec.format, symmetric=spec.is_symmetric)
    return out


def _params(
    blocks: NDArray[np.float32], spec: QuantSpec, method: str
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None]:
    """Scale float32 and zero point int16 [rows, num_blocks] of blocks [rows, num_blocks, block]."""
    low = np.minimum(np.fmin.reduce(blocks, 2), 0)
    high = np.maximum(np.fmax.reduce(blocks, 2), 0)
    if method == "minmax":
        return _from_range(low, high, spec)
    best_scale, best_point = _from_range(low, high, spec)
    best_error = _error(blocks, best_scale, best_point, spec)
    for shrink in _SHRINKS:
        scale, point = _from_range(low * np.float32(shrink), high * np.float32(shrink), spec)
        for candidate in (scale, _refit(blocks, scale, point, spec)):
            error = _error(blocks, candidate, point, spec)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, candidate, best_scale)
            if point is not None and best_point is not None:
                best_point = np.where(better, point, best_point)
    return best_scale, best_point


def _from_range(
    low: NDArray[np.float32], high: NDArray[np.float32], spec: QuantSpec
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None]:
    """The stored scale and the zero point of a range; a block of zeros has scale 1 (N6)."""
    if spec.is_symmetric:
        amax = np.maximum(-low, high)
        scale = np.where(amax > 0, amax / np.float32(spec.format.absmax(symmetric=True)), 1)
        return store_scale(scale, spec.scale_format), None
    levels = spec.format.code_max - spec.format.code_min
    scale = np.where(high > low, (high - low) / np.float32(levels), 1)
    scale = store_scale(scale, spec.scale_format)
    point = np.clip(
        np.rint(-low / scale) + spec.format.code_min, spec.format.code_min, spec.format.code_max
    )
    return scale, point.astype(np.int16)


def _real(
    blocks: NDArray[np.float32], scale: NDArray, point: NDArray | None, spec: QuantSpec
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the codes of the blocks are worth, and that in units of the scale."""
    wide, points = scale[..., None], 0 if point is None else point[..., None]
    codes = quantize(blocks, wide, points, spec.format, symmetric=spec.is_symmetric)
    units = dequantize(codes, np.float32(1), points, spec.format)
    return units * wide, units


def _error(
    blocks: NDArray[np.float32], scale: NDArray, point: NDArray | None, spec: QuantSpec
) -> NDArray[np.float32]:
    real, _ = _real(blocks, scale, point, spec)
    return np.nansum((real - blocks) ** 2, 2)


def _refit(
    blocks: NDArray[np.float32], scale: NDArray, point: NDArray | None, spec: QuantSpec
) -> NDArray[np.float32]:
    """The scale that fits the codes best, ⟨w, u⟩ / ⟨u, u⟩, stored."""
    _, units = _real(blocks, scale, point, spec)
    power = (units**2).sum(2, where=~np.isnan(blocks))
    fitted = np.where(power > 0, np.nansum(units * blocks, 2) / np.maximum(power, 1), scale)
    return store_scale(np.where(fitted > 0, fitted, scale), spec.scale_format)
