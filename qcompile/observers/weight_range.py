# SPDX-License-Identifier: Apache-2.0
"""Scales and zero points of weights, from extremes or by a search for the least squared error."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.formats.bitmod import with_special
from qcompile.memory import in_threads
from qcompile.numerics.quantize import dequantize, quantize, store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.generalized_gaussian import best_ratio, pooled_shape
from qcompile.observers.kept_weights import kept_weights
from qcompile.observers.slim import slim_range
from qcompile.observers.ternary_scale import STATISTICS, ternary_scale
from qcompile.spec import QuantSpec

Params = tuple[NDArray[np.float32], NDArray[np.int16] | None]  # scale, zero point
_SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.76, 0.73, 0.7, 0.65, 0.6, 0.5)
# Where levels are few or weights many, the best range may lie far below the extreme one.
_FAR_SHRINKS = (0.42, 0.35, 0.29, 0.24, 0.2, 0.165, 0.135)
_ROWS_BYTES = 1 << 20  # a slice and its codes stay in the cache through the search


def code_weight(
    weight: NDArray[np.float32],
    spec: QuantSpec,
    method: str,
    codes: NDArray[np.int16] | None = None,
    kept: NDArray[np.bool_] | None = None,
) -> CodedWeight:
    """Round-to-nearest codes of a weight [N, K]; method: one of WEIGHT_SCALE_METHODS, or "norm".

    Works in slices of rows, so memory stays bounded. The mse search shrinks both ends of the range
    alike, and grows those of tapered formats (`growths`), refits the scale to the codes by least
    squares, and keeps the best of all that it tried, minmax among them. norm: the levels are those
    of N(0, 1), times the rms. Ternary weights have scales of their own (ternary_scale.py): the
    optimum for mse, absmean and absmedian, which other formats search for as by mse. Of symmetric
    formats without special values slim (slim.py) has one range for all rows, and ggd
    (generalized_gaussian.py) takes a block's scale from its E|w| and the shape of the whole weight;
    others are searched as by mse. codes: where they go, [N, K]; a new array if it is None. kept: of
    a sparse spec, the weights [N, K] that stay, by default those of largest magnitude; others are
    0, and no scale but slim's, which is found before, has seen them.
    """
    n, k = weight.shape
    block = {"block": spec.block_size, "axis": max(k, 1)}.get(spec.granularity, max(k, 1))
    codes = np.empty(weight.shape, np.int16) if codes is None else codes
    step = max(1, _ROWS_BYTES // (4 * max(k, 1)))
    slices = [slice(i, i + step) for i in range(0, n, step)]
    whole, ratio = None, None
    is_plain = spec.is_symmetric and not spec.format.specials
    if method == "ggd" and is_plain:
        size = weight.size if spec.granularity == "tensor" else block
        shape = pooled_shape(weight.reshape(-1, size) if size > block else weight, size)
        ratio = best_ratio(spec.format, round(shape, 3))
    if method == "slim" and is_plain:
        whole = _one_scale(slim_range(weight, spec.format), n, -(-k // block), spec)
    elif spec.granularity == "tensor":
        scale, zero_point = _params(weight.reshape(1, 1, -1), spec, method, ratio)
        whole = np.repeat(scale, n, 0), None if zero_point is None else np.repeat(zero_point, n, 0)

    if spec.sparsity is not None and kept is None:
        kept = kept_weights(weight)

    def code(rows: slice) -> Params:
        part = np.ascontiguousarray(weight[rows])
        if kept is not None:
            part = np.where(kept[rows], part, np.float32(0))
        if whole is None:
            scale, zero_point = _params(_blocks(part, block), spec, method, ratio)
        else:
            scale, zero_point = whole[0][rows], None if whole[1] is None else whole[1][rows]
        codes[rows] = _codes(part, scale, zero_point, spec, block)
        return scale, zero_point

    parts = in_threads(code, slices)
    scales = np.concatenate([p[0] for p in parts])
    points = None if parts[0][1] is None else np.concatenate([p[1] for p in parts])
    block_size = spec.block_size if spec.granularity == "block" else 0
    return CodedWeight(codes, scales, points, spec.format, block_size, spec.scale_format, kept=kept)


def squared_error(weight: NDArray[np.float32], spec: QuantSpec, method: str = "mse") -> float:
    """Σ (Ŵ − W)² of the nearest codes of a weight [N, K]."""
    left = code_weight(weight, spec, method).decode()
    left -= weight
    return float(np.square(left).sum(dtype=np.float64))


def _one_scale(alpha: float, rows: int, blocks: int, spec: QuantSpec) -> Params:
    """The same scale float32 [rows, num_blocks] everywhere."""
    high = np.full((rows, max(blocks, 0)), alpha, np.float32)
    return _from_range(-high, high, spec)


def _blocks(rows: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """[rows, K] as [rows, num_blocks, block]; a short last block is filled with NaN."""
    missing = -rows.shape[1] % block
    wide = np.pad(rows, ((0, 0), (0, missing)), constant_values=np.nan) if missing else rows
    return wide.reshape(len(rows), -1, block)


def _codes(
    rows: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int16] | None,
    spec: QuantSpec,
    block: int,
) -> NDArray[np.int16]:
    wide = np.repeat(scale, block, axis=1)[:, : rows.shape[1]]
    points: NDArray | int = 0
    if zero_point is not None:
        points = np.repeat(zero_point, block, axis=1)[:, : rows.shape[1]]
    return quantize(rows, wide, points, spec.format, symmetric=spec.is_symmetric)


def _params(
    blocks: NDArray[np.float32], spec: QuantSpec, method: str, ratio: float | None = None
) -> Params:
    """Scale float32 and zero point int16 [rows, num_blocks] of blocks [rows, num_blocks, block].

    ratio: of the scale to E|w|, where the method is ggd.
    """
    if spec.format.specials:
        return _with_specials(blocks, spec, method)
    if method == "norm":
        mean = np.nanmean(np.square(blocks, dtype=np.float64), axis=2)
        unit = np.where(mean > 0, np.sqrt(mean) * spec.format.table_scale, 1)
        return store_scale(unit, spec.scale_format), None
    if ratio is not None:
        absolute = np.nanmean(np.abs(blocks), 2, dtype=np.float64)
        scale = np.where(absolute > 0, absolute * ratio, 1)
        return store_scale(scale, spec.scale_format), None
    is_ternary = spec.format.levels is not None and spec.is_symmetric
    if is_ternary and method in STATISTICS:
        return store_scale(ternary_scale(blocks, method), spec.scale_format), None
    low = np.minimum(np.fmin.reduce(blocks, 2), 0)
    high = np.maximum(np.fmax.reduce(blocks, 2), 0)
    plain = _from_range(low, high, spec)
    if method == "minmax":
        return plain
    if is_ternary:
        plain = store_scale(ternary_scale(blocks, "mse"), spec.scale_format), None
    found = _search(blocks, low, high, spec)
    better = _error(blocks, *found, spec) < _error(blocks, *plain, spec)
    scale = np.where(better, found[0], plain[0])
    if plain[1] is None or found[1] is None:
        return scale, None
    return scale, np.where(better, found[1], plain[1])


def _with_specials(
    blocks: NDArray[np.float32], spec: QuantSpec, method: str
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None]:
    """The scale and the special value of the least error, block by block (BitMoD, section III)."""
    best = np.full(blocks.shape[:2], np.inf)
    scale, special = np.ones(best.shape, np.float32), np.zeros(best.shape, np.int16)
    for value in spec.format.specials:
        fixed = replace(spec, format=with_special(spec.format, value))
        found, _ = _params(blocks, fixed, method)
        error = _error(blocks, found, None, fixed)
        better = error < best
        best = np.where(better, error, best)
        scale, special = np.where(better, found, scale), np.where(better, value, special)
    return scale, special.astype(np.int16)


def _search(
    blocks: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    spec: QuantSpec,
) -> tuple[NDArray[np.float32], NDArray[np.int16] | None]:
    """The best of the shrunk ranges and of the scales refitted to their codes, ⟨w, u⟩ / ⟨u, u⟩.

    Codes are not rounded again for a refitted scale: s²⟨u, u⟩ − 2s⟨w, u⟩ + ⟨w, w⟩ bounds its error.
    """
    is_filled = np.isnan(blocks)
    zeroed = np.where(is_filled, np.float32(0), blocks)
    best_error = np.full(low.shape, np.inf)
    best_scale, best_point = _from_range(low, high, spec)
    is_far = spec.format.bits <= 3 or blocks.shape[2] > 4096
    far = _FAR_SHRINKS if is_far else ()
    for shrink in (*_SHRINKS, *far, *growths(spec.format)):
        scale, point = _from_range(low * np.float32(shrink), high * np.float32(shrink), spec)
        units = _units(zeroed, scale, point, spec, is_filled)
        power = np.einsum("rbk,rbk->rb", units, units).astype(np.float64)
        overlap = np.einsum("rbk,rbk->rb", units, zeroed).astype(np.float64)
        fitted = np.where(overlap > 0, overlap / np.maximum(power, 1), scale)
        for candidate in (scale, store_scale(fitted, spec.scale_format)):
            error = (candidate * power - 2 * overlap) * candidate
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_scale = np.where(better, candidate, best_scale)
            if point is not None and best_point is not None:
                best_point = np.where(better, point, best_point)
    return best_scale, best_point


@lru_cache
def growths(format: Format) -> tuple[float, ...]:
    """Ranges beyond the extreme, for tables whose levels are dense far below the largest one.

    A posit is best where the weights' root mean square is near 1, 16 or 64 times below its largest
    value, whatever their extreme is (XR-NPE, section 3).
    """
    sizes = np.unique(np.abs(format.values.astype(np.float64)))
    tail = sizes[-1] / np.median(sizes)
    most = int(np.log2(max(tail, 1)) * 2) if format.is_table and tail > 6 else 0
    return tuple(2.0 ** (i / 2) for i in range(1, most + 1))


def _units(
    zeroed: NDArray[np.float32],
    scale: NDArray,
    point: NDArray | None,
    spec: QuantSpec,
    is_filled: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """The nearest codes in units of the scale, 0 where the block is filled; for choosing only."""
    if spec.format.is_table:
        return np.where(is_filled, np.float32(0), _real(zeroed, scale, point, spec)[1])
    low, high = spec.format.quantized_range(symmetric=spec.is_symmetric)
    points = np.float32(0) if point is None else point[..., None].astype(np.float32)
    units = np.multiply(zeroed, (1 / scale)[..., None], dtype=np.float32)
    np.rint(units, out=units)
    np.clip(units, low - points, high - points, out=units)  # 0 stays 0: it is in every range
    return units


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
