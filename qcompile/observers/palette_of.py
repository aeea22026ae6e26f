# SPDX-License-Identifier: Apache-2.0
"""Weights whose every block has values of its own: their codes and codebooks, exactly.

A block of at most 16 different values is coded by their places among them, whatever they are. That
is done where the levels, as f16 if they are such, take no more bytes than the codes: then the
weight becomes clearly smaller, and values that are few by chance never are few enough. Ordinary
weights have as many values as columns (a property test).
"""

import numpy as np
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.formats.palette import MOST_BITS
from qcompile.memory import row_slices
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.codebook_of import in_blocks

Real32 = NDArray[np.float32]
_STORED = {"f16": 2, "f32": 4}


def palette_of(weight: Real32, block_sizes: list[int]) -> CodedWeight | None:
    """The weight [N, K] in the form of the fewest bytes, with blocks of one of the sizes, or None.

    block_sizes: 0 is a row.
    """
    found = [made for size in block_sizes if (made := _coded(weight, size)) is not None]
    return min(found, key=_bits_per_weight, default=None)


def _bits_per_weight(coded: CodedWeight) -> float:
    bits, stored = coded.format.bits, _STORED[coded.scale_format]
    return bits + 8 * stored * 2.0**bits / coded.block


def _coded(weight: Real32, block_size: int) -> CodedWeight | None:
    n, k = weight.shape
    size = block_size or k
    bits = _bits_of(weight, size)
    if bits is None or stored_bytes(bits, "f16") > bits * size / 8:
        return None
    blocks = -(-k // size)
    levels = np.empty((n, blocks, 2**bits), np.float32)
    codes = np.empty((n, k), np.int16)
    for rows in row_slices(n, k):
        found, places = _levels_and_codes(in_blocks(weight[rows], size), 2**bits)
        levels[rows] = found.reshape(-1, blocks, 2**bits)
        codes[rows] = places.reshape(-1, blocks * size)[:, :k]
    if not np.isfinite(levels).all():
        return None
    form = "f16" if _are_halves(levels) else "f32"
    if stored_bytes(bits, form) > bits * size / 8:
        return None
    format = formats.get(f"palette{bits}")
    return CodedWeight(codes, None, None, format, block_size, form, levels=levels)


def stored_bytes(bits: int, form: str) -> int:
    """Bytes of the levels of a block.

    >>> stored_bytes(4, "f16"), stored_bytes(3, "f32")
    (32, 32)
    """
    return _STORED[form] << bits


def _bits_of(weight: Real32, size: int) -> int | None:
    """Bits for the most values that a block has, or None for more than 16."""
    most = 2
    for rows in (slice(0, 1), *row_slices(*weight.shape)):  # the first row alone says no mostly
        ordered = np.sort(in_blocks(weight[rows], size), 1)
        most = max(most, int((np.diff(ordered, axis=1) != 0).sum(1).max(initial=0)) + 1)
        if most > 2**MOST_BITS:
            return None
    return (most - 1).bit_length()


def _levels_and_codes(blocks: Real32, count: int) -> tuple[Real32, NDArray[np.int16]]:
    """Ascending levels [blocks, count], the last one repeated, and the place of every weight."""
    order = np.argsort(blocks, axis=1, kind="stable")
    ordered = np.take_along_axis(blocks, order, 1)
    places = np.zeros(blocks.shape, np.int16)
    np.cumsum(np.diff(ordered, axis=1) != 0, axis=1, out=places[:, 1:])
    levels = np.repeat(ordered[:, -1:], count, axis=1)
    np.put_along_axis(levels, places.astype(np.int64), ordered, 1)
    codes = np.empty_like(places)
    np.put_along_axis(codes, order, places, 1)
    return levels + np.float32(0), codes  # −0 becomes 0


def _are_halves(levels: Real32) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(levels.astype(np.float16).astype(np.float32), levels))
