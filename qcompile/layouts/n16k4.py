# SPDX-License-Identifier: Apache-2.0
"""n16k4/1: dense weights in the order of use (docs/layouts.md)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.layouts.layout import (
    FIELDS,
    Layout,
    Shape,
    decode_parts,
    scale_as_bytes,
    scale_bytes,
    scale_from_bytes,
    zero_point_bytes,
)
from qcompile.numerics.weight import CodedWeight

TILE = 16
PANEL_TILES = 4
NAME = "n16k4/1"


def chunk_columns(bits: int) -> int:
    """Columns of the smallest whole run of vectors: 32 / B_min.

    >>> [chunk_columns(b) for b in range(1, 9)]
    [32, 16, 32, 8, 32, 16, 32, 4]
    """
    return 32 // min(FIELDS[bits])


def padded_block(k: int, bits: int) -> int:
    """k rounded up to whole chunks."""
    chunk = chunk_columns(bits)
    return -(-k // chunk) * chunk


def panels(n: int) -> list[tuple[int, int]]:
    """(first output, tiles) of every panel.

    >>> panels(90)
    [(0, 4), (64, 2)]
    """
    panel = TILE * PANEL_TILES
    return [(first, -(-min(n - first, panel) // TILE)) for first in range(0, n, panel)]


def blocks(shape: Shape) -> list[tuple[int, int, int]]:
    """(block, first column, padded columns) of every block."""
    return [
        (i, first, padded_block(min(shape.block, shape.K - first), shape.format.bits))
        for i, first in enumerate(range(0, shape.K, shape.block))
    ]


def block_bytes(shape: Shape, tiles: int, columns: int) -> int:
    """Bytes of one block of one panel: codes, scales, zero points."""
    per_output = scale_bytes(shape.scale_format) + int(shape.has_zero_point)
    return tiles * (2 * columns * shape.format.bits + TILE * per_output)


def num_bytes(shape: Shape) -> int:
    """Bytes of the whole buffer."""
    full, rest = divmod(-(-shape.N // TILE), PANEL_TILES)
    counts = ((full, PANEL_TILES), (int(rest > 0), rest))
    sizes = [columns for _, _, columns in blocks(shape)]
    return sum(n * block_bytes(shape, tiles, c) for n, tiles in counts if n for c in sizes)


def _runs(shape: Shape) -> list[tuple[slice, int]]:
    """(blocks, padded columns of each) of the full blocks, and of a short last one."""
    full = shape.K // shape.block
    padded = padded_block(shape.block, shape.format.bits)
    found = [(slice(0, full), padded)] if full else []
    if shape.K % shape.block:
        short = padded_block(shape.K % shape.block, shape.format.bits)
        found.append((slice(full, full + 1), short))
    return found


def _check(shape: Shape) -> None:
    chunk = chunk_columns(shape.format.bits)
    if shape.num_blocks > 1 and shape.block % chunk:
        raise ValueError(
            f"{NAME}: block size {shape.block} of {shape.format} is no multiple of {chunk}"
        )


def code_bytes(u: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes u [16·tiles, padded columns] of one block to bytes [tiles·2·columns·bits]."""
    tiles, chunk = len(u) // TILE, chunk_columns(bits)
    # [tile, n, chunk, step, r] -> [chunk, tile, step, n, r]: a step is 4 columns of 16 outputs
    steps = u.reshape(tiles, TILE, -1, chunk // 4, 4).transpose(2, 0, 3, 1, 4)
    parts, shift = [], 0
    for width in FIELDS[bits]:
        field = (steps >> shift) & (2**width - 1)
        slots = 8 // width
        field = field.reshape(*field.shape[:2], -1, slots, TILE * 4)
        places = (np.arange(slots, dtype=np.uint8) * width)[:, None]
        parts.append(np.bitwise_or.reduce(field << places, axis=3))
        shift += width
    return np.concatenate(parts, axis=2).ravel()


def codes_of(data: NDArray[np.uint8], tiles: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of `code_bytes`: uint8 [16·tiles, padded columns]."""
    chunk = chunk_columns(bits)
    vectors = data.reshape(-1, tiles, bits * chunk // 32, TILE * 4)
    u, at, shift = np.zeros((len(vectors), tiles, chunk // 4, TILE * 4), np.uint8), 0, 0
    for width in FIELDS[bits]:
        count, slots = width * chunk // 32, 8 // width
        places = (np.arange(slots, dtype=np.uint8) * width)[:, None]
        field = (vectors[:, :, at : at + count, None, :] >> places) & (2**width - 1)
        u |= field.reshape(u.shape) << np.uint8(shift)
        at, shift = at + count, shift + width
    steps = u.reshape(len(vectors), tiles, chunk // 4, TILE, 4).transpose(1, 3, 0, 2, 4)
    return steps.reshape(tiles * TILE, -1)


def pack(weight: CodedWeight) -> NDArray[np.uint8]:
    """The weight's bytes, uint8 [num_bytes]."""
    shape = Shape.of(weight)
    _check(shape)
    u, zero_point = weight.unsigned(), zero_point_bytes(weight)
    out = []
    for first, tiles in panels(shape.N):
        rows = slice(first, first + tiles * TILE)
        for run, columns in _runs(shape):
            count, height = run.stop - run.start, tiles * TILE
            codes = np.zeros((height, count * columns), np.uint8)
            part = u[rows, run.start * shape.block : run.stop * shape.block]
            codes[: part.shape[0], : part.shape[1]] = part
            fields = [code_bytes(codes, shape.format.bits).reshape(count, -1)]
            if weight.scale is not None:
                scales = np.zeros((count, height), np.float32)
                scales[:, : len(part)] = weight.scale[rows, run].T
                fields.append(scale_as_bytes(scales, shape.scale_format))
            if zero_point is not None:
                points = np.zeros((count, height), np.uint8)
                points[:, : len(part)] = zero_point[rows, run].T
                fields.append(points)
            out.append(np.concatenate(fields, axis=1).ravel())
    return np.concatenate(out) if out else np.zeros(0, np.uint8)


def unpack(data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    _check(shape)
    u = np.zeros((shape.N, shape.K), np.uint8)
    sized = scale_bytes(shape.scale_format)
    scale = np.zeros((shape.N, shape.num_blocks), np.float32) if sized else None
    points = np.zeros((shape.N, shape.num_blocks), np.uint8) if shape.has_zero_point else None
    at = 0
    for first, tiles in panels(shape.N):
        height = min(shape.N - first, tiles * TILE)
        rows = slice(first, first + height)
        for run, columns in _runs(shape):
            count, size = run.stop - run.start, tiles * 2 * columns * shape.format.bits
            end = at + count * block_bytes(shape, tiles, columns)
            fields, at = data[at:end].reshape(count, -1), end
            codes = codes_of(fields[:, :size].ravel(), tiles, shape.format.bits)
            part = u[rows, run.start * shape.block : run.stop * shape.block]
            part[:] = codes[:height, : part.shape[1]]
            if scale is not None:
                raw = fields[:, size : size + height * sized]
                scale[rows, run] = scale_from_bytes(raw, shape.scale_format).T  # type: ignore[union-attr]
            if points is not None:
                begin = size + tiles * TILE * sized
                points[rows, run] = fields[:, begin : begin + height].T
    return decode_parts(u, scale, points, shape)


N16K4 = Layout(NAME, pack, unpack, num_bytes)
