# SPDX-License-Identifier: Apache-2.0
"""n16k4s/1: two codes of every four columns, with a mask (docs/layouts.md).

2:4 sparsity as SLiM has it (Mozaffari et al. 2025, section 3.2) and graphics processors multiply
it; the mask is a bit a column here, 1 bit a weight, where theirs is two indices of 2 bits.
"""

import numpy as np

from qcompile.formats import Format
from qcompile.layouts.layout import Shape
from qcompile.layouts.n16k4 import (
    TILE,
    Codes,
    Coding,
    chunk_bytes,
    chunk_columns,
    codes_of_steps,
    field_bytes,
    layout_of,
    steps_of_fields,
)
from qcompile.numerics.weight import CodedWeight

BITS = (3, 4)  # of the codes that it holds; of 2 bits n16k4 is as small
KEPT, OF = 2, 4
_MASK_BYTES = TILE * OF // 8


def holds(weight: CodedWeight) -> bool:
    """Whether every four columns of the weight have at most two values that are not 0."""
    return has_sparse_codes(weight.format) and most_of_four(weight) <= KEPT


def has_sparse_codes(format: Format) -> bool:
    """Whether kernels read its codes here: 3 or 4 bits, one of them 0, and none special.

    >>> from qcompile.formats import get
    >>> [has_sparse_codes(get(name)) for name in ("int4", "binary", "bitmod4")]
    [True, False, False]
    """
    if format.bits not in BITS or format.levels or format.specials:
        return False
    return format.zero_code is not None


def most_of_four(weight: CodedWeight) -> int:
    """The most values of four columns that are not 0."""
    is_there = weight.values() != 0
    padded = np.pad(is_there, ((0, 0), (0, -is_there.shape[1] % OF)))
    return int(padded.reshape(len(padded), -1, OF).sum(2).max(initial=0))


def saves(shape: Shape) -> bool:
    """Whether it is smaller than n16k4: not where K is a few columns, which fill a chunk."""
    return shape.format.bits in BITS and chunk_columns(shape.format) <= shape.K


def _chunk_bytes(format: Format) -> int:
    return chunk_bytes(format) // 2 + chunk_columns(format) // OF * _MASK_BYTES


def _to_bytes(u: Codes, zeros: Codes | None, format: Format) -> Codes:
    assert zeros is not None
    tiles, steps = len(u) // TILE, chunk_columns(format) // OF
    four = u.reshape(tiles, TILE, -1, steps, OF).transpose(2, 0, 3, 1, 4)
    is_there = (u != zeros).reshape(tiles, TILE, -1, steps, OF).transpose(2, 0, 3, 1, 4)
    if (is_there.sum(4) > KEPT).any():
        raise ValueError(f"n16k4s/1: more than {KEPT} of {OF} columns are not 0")
    # those that are not 0, and the first of the others where they are fewer than two
    kept = np.sort(np.argsort(~is_there, axis=4, kind="stable")[..., :KEPT], axis=4)
    codes = np.take_along_axis(four, kept, 4)
    fields = field_bytes(codes.reshape(*codes.shape[:3], TILE * KEPT), format.bits)
    masks = (1 << kept).sum(4).astype(np.uint8)
    pairs = masks[..., 0::2] | masks[..., 1::2] << 4
    chunks = len(fields)
    parts = [fields.reshape(chunks, tiles, -1), pairs.reshape(chunks, tiles, -1)]
    return np.concatenate(parts, axis=2).ravel()


def _from_bytes(data: Codes, tiles: int, zeros: Codes | None, format: Format) -> Codes:
    assert zeros is not None
    steps, size = chunk_columns(format) // OF, chunk_bytes(format) // 2
    chunks = data.reshape(-1, tiles, _chunk_bytes(format))
    fields = chunks[..., :size].reshape(len(chunks), tiles, -1, TILE * KEPT)
    codes = steps_of_fields(fields, format.bits)
    pairs = chunks[..., size:].reshape(len(chunks), tiles, steps, TILE // 2, 1)
    masks = np.concatenate([pairs & 15, pairs >> 4], axis=4).reshape(*pairs.shape[:3], TILE)
    is_kept = (masks[..., None] >> np.arange(OF, dtype=np.uint8) & 1).astype(bool)
    rank = np.minimum(np.cumsum(is_kept, axis=4) - is_kept, KEPT - 1)
    codes = codes.reshape(*codes.shape[:3], TILE, KEPT)
    found = np.take_along_axis(codes, rank, 4).reshape(*codes.shape[:3], -1)
    kept = codes_of_steps(is_kept.reshape(*codes.shape[:3], -1).astype(np.uint8)).astype(bool)
    return np.where(kept, codes_of_steps(found), zeros).astype(np.uint8)


SPARSE = Coding("n16k4s/1", chunk_columns, _chunk_bytes, _to_bytes, _from_bytes, needs_zeros=True)
N16K4S = layout_of(SPARSE)
