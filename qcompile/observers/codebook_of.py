# SPDX-License-Identifier: Apache-2.0
"""Weights of one codebook times a scale a block: the table, the scales and the codes, exactly.

Files of networks that were fine-tuned over NormalFloat (QLoRA, Dettmers et al. 2023, section 3) and
of other codebooks hold level · absmax, a float32 product. The largest magnitude of a block is its
scale where the codebook reaches 1, as such codebooks do; then the ratios of all weights to their
scales are the levels, but for a rounding. A level is the float32 number whose products with the
scales are *all* of the weights that lie near it, to the last bit: so ordinary weights have none.
"""

import numpy as np
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.formats.scales import with_unit
from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight

Real32 = NDArray[np.float32]
MOST_LEVELS = 16
_SHORTEST = 32  # columns of a block or row
_EVIDENCE = 8  # weights other than 0 for every level
_SAMPLE = 1 << 16  # weights from which the levels are found; all others are compared with them
_APART = 2.0**-22  # ratios of one level are within 2^-23 of each other
_ULPS = np.arange(-2, 3)


def codebook_of(weight: Real32, block_size: int) -> CodedWeight | None:
    """The weight [N, K] in codes of one table, with a scale a block (0: a row), or None."""
    n, k = weight.shape
    size = block_size or k
    if size < _SHORTEST or len(np.unique(weight[0, :size])) > MOST_LEVELS:
        return None
    rows = in_blocks(weight, size)
    sample = rows[: max(_SAMPLE // size, 1)]
    levels = _levels(sample, _largest(sample))
    if levels is None or np.count_nonzero(weight) < _EVIDENCE * len(levels):
        return None
    found = integers_of(levels)
    scale = _largest(rows)
    codes = _codes(rows, scale, levels)
    if found is None or codes is None:
        return None
    entries, unit = found
    small = np.ldexp(scale, unit)
    if small.min() < 2.0**-126:
        return None
    format = formats.get(f"values[{','.join(map(str, entries))}]")
    scales = small.reshape(n, -1)
    halves = with_unit("f16", 2.0**unit)
    form = halves if block_size and _is_kept(scales, halves) else "f32"
    return CodedWeight(codes.reshape(n, -1)[:, :k], scales, None, format, block_size, form)


def in_blocks(weight: NDArray, size: int) -> NDArray:
    """[N, K] as [N · blocks, size]; a short last block repeats its last number."""
    missing = -weight.shape[1] % size
    wide = np.pad(weight, ((0, 0), (0, missing)), mode="edge") if missing else weight
    return np.ascontiguousarray(wide.reshape(-1, size))


def integers_of(levels: Real32) -> tuple[list[int], int] | None:
    """Ascending levels as integers times 2^unit, or None where int64 has not the range.

    >>> integers_of(np.array([-1, 0, 0.375], np.float32))
    ([-8, 0, 3], -3)
    """
    mantissa, exponent = np.frexp(levels[levels != 0])
    whole = np.abs(np.ldexp(mantissa.astype(np.float64), 24)).astype(np.int64)
    lowest = whole & -whole
    digits = 24 - (np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1)
    unit = int((exponent - digits).min())
    if int(exponent.max()) - unit > 62 or not -126 <= unit <= 127:
        return None
    return [int(v) for v in np.ldexp(levels.astype(np.float64), -unit)], unit


def own_codebooks(weight: Real32) -> int | None:
    """The largest block whose weights have at most 16 values in every block, or None.

    For weights that lie on no grid: then each block has values of its own.
    """
    for size in (0, 256, 128, 64):
        block = size or weight.shape[1]
        if block < 2 * _SHORTEST or block > weight.shape[1]:
            continue
        ordered = np.sort(in_blocks(weight[:1], block), 1)
        if _most_values(ordered) > MOST_LEVELS:
            continue
        if weight.any() and _most_values(np.sort(in_blocks(weight, block), 1)) <= MOST_LEVELS:
            return block
    return None


def _most_values(ordered: Real32) -> int:
    return int((np.diff(ordered, axis=1) != 0).sum(1).max(initial=0)) + 1


def _largest(rows: Real32) -> Real32:
    found = np.abs(rows).max(1)
    return np.where(found > 0, found, np.float32(1))


def _levels(rows: Real32, scale: Real32) -> Real32 | None:
    """Ascending levels of which every weight of the rows is a float32 product, or None."""
    if not np.isfinite(scale).all() or scale.min() < 2.0**-90:
        return None
    ratio = (rows.astype(np.float64) / scale[:, None].astype(np.float64)).ravel()
    ordered = np.sort(ratio)
    gaps = np.diff(ordered) > _APART * np.maximum(np.abs(ordered[1:]), 2.0**-30)
    starts = np.flatnonzero(np.r_[True, gaps])
    if len(starts) > MOST_LEVELS:
        return None
    owner = np.searchsorted(ordered[starts], ratio, side="right") - 1
    flat, scales = rows.ravel(), np.repeat(scale, rows.shape[1])
    levels = np.zeros(len(starts), np.float32)
    for i, start in enumerate(starts):
        held = owner == i
        level = _level(flat[held], scales[held], np.float32(ordered[start]))
        if level is None:
            return None
        levels[i] = level
    return levels if len(np.unique(levels)) == len(levels) else None


def _level(weights: Real32, scales: Real32, near: np.float32) -> np.float32 | None:
    """The float32 number near this one whose products are all of these weights."""
    if near == 0:
        return np.float32(0) if not weights.any() else None
    tried = (near.view(np.int32) + _ULPS).astype(np.int32).view(np.float32)
    exact = [bool((level * scales == weights).all()) for level in tried]
    order = np.argsort(np.abs(_ULPS), kind="stable")
    return next((tried[i] for i in order if exact[i]), None)


def _codes(rows: Real32, scale: Real32, levels: Real32) -> NDArray[np.int16] | None:
    """The index of every weight's level, or None where one is no product of a level."""
    codes = np.empty(rows.shape, np.int16)
    middles = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    step = max(1, (1 << 20) // rows.shape[1])
    for first in range(0, len(rows), step):
        part, by = rows[first : first + step], scale[first : first + step, None]
        found = np.searchsorted(middles, part.astype(np.float64) / by)
        if not np.array_equal(levels[found] * by, part):
            return None
        codes[first : first + step] = found
    return codes


def _is_kept(scales: Real32, form: str) -> bool:
    return bool(np.array_equal(store_scale(scales, form), scales))
