# SPDX-License-Identifier: Apache-2.0
"""n16k4/1: dense weights in the order of use (docs/layouts.md)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.layouts.layout import (
    FIELDS,
    Layout,
    Shape,
    decode_parts,
    point_bytes,
    scales_of,
)
from qcompile.layouts.scales import scale_bytes
from qcompile.numerics.weight import CodedWeight

TILE = 16
PANEL_TILES = 4
TRITS = 5  # codes of three levels in a byte
NAME = "n16k4/1"


def chunk_columns(format: Format) -> int:
    """Columns of the smallest whole run of vectors: 32 / B_min; 20 of three levels.

    >>> from qcompile.formats import get
    >>> [chunk_columns(get(f"int{b}")) for b in range(1, 9)], chunk_columns(get("ternary"))
    ([32, 16, 32, 8, 32, 16, 32, 4], 20)
    """
    return 4 * TRITS if format.levels == 3 else 32 // min(FIELDS[format.bits])


def chunk_bytes(format: Format) -> int:
    """Bytes of a chunk of 16 outputs."""
    return TILE * 4 if format.levels == 3 else 2 * format.bits * chunk_columns(format)


def padded_block(k: int, format: Format) -> int:
    """k rounded up to whole chunks."""
    chunk = chunk_columns(format)
    return -(-k // chunk) * chunk


def _code_size(shape: Shape, tiles: int, columns: int) -> int:
    """Bytes of the codes of one block of one panel."""
    return tiles * (columns // chunk_columns(shape.format)) * chunk_bytes(shape.format)


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
        (i, first, padded_block(min(shape.block, shape.K - first), shape.format))
        for i, first in enumerate(range(0, shape.K, shape.block))
    ]


def block_bytes(shape: Shape, tiles: int, columns: int) -> int:
    """Bytes of one block of one panel: codes, scales, zero points."""
    return _code_size(shape, tiles, columns) + tiles * TILE * shape.block_overhead


def num_bytes(shape: Shape) -> int:
    """Bytes of the whole buffer."""
    full, rest = divmod(-(-shape.N // TILE), PANEL_TILES)
    counts = ((full, PANEL_TILES), (int(rest > 0), rest))
    sizes = [columns for _, _, columns in blocks(shape)]
    return sum(n * block_bytes(shape, tiles, c) for n, tiles in counts if n for c in sizes)


def _runs(shape: Shape) -> list[tuple[slice, int]]:
    """(blocks, padded columns of each) of the full blocks, and of a short last one."""
    full = shape.K // shape.block
    padded = padded_block(shape.block, shape.format)
    found = [(slice(0, full), padded)] if full else []
    if shape.K % shape.block:
        short = padded_block(shape.K % shape.block, shape.format)
        found.append((slice(full, full + 1), short))
    return found


def _check(shape: Shape) -> None:
    chunk = chunk_columns(shape.format)
    if shape.num_blocks > 1 and shape.block % chunk:
        raise ValueError(
            f"{NAME}: block size {shape.block} of {shape.format} is no multiple of {chunk}"
        )


def code_bytes(u: NDArray[np.uint8], format: Format) -> NDArray[np.uint8]:
    """Codes u [16·tiles, padded columns] of one block to bytes."""
    tiles, chunk = len(u) // TILE, chunk_columns(format)
    # [tile, n, chunk, step, r] -> [chunk, tile, step, n, r]: a step is 4 columns of 16 outputs
    steps = u.reshape(tiles, TILE, -1, chunk // 4, 4).transpose(2, 0, 3, 1, 4)
    if format.levels == 3:
        return trit_bytes(steps.reshape(*steps.shape[:3], TILE * 4)).ravel()
    parts, shift = [], 0
    for width in FIELDS[format.bits]:
        field = (steps >> shift) & (2**width - 1)
        slots = 8 // width
        field = field.reshape(*field.shape[:2], -1, slots, TILE * 4)
        places = (np.arange(slots, dtype=np.uint8) * width)[:, None]
        parts.append(np.bitwise_or.reduce(field << places, axis=3))
        shift += width
    return np.concatenate(parts, axis=2).ravel()


def trit_bytes(steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes 0 … 2 [chunk, tile, 5, 64], five to a byte [chunk, tile, 1, 64].

    The byte is ceil(Σ u_i 3^(4-i) · 256 / 243) + 128 mod 256: as a signed one it is above -43 where
    the first code is 1 or 2, above 42 where it is 2, and tripled mod 256 it has the next one there.
    """
    powers = 3 ** np.arange(TRITS - 1, -1, -1)
    number = (steps.astype(np.int64) * powers[:, None]).sum(2, keepdims=True)
    stored = (number * 256 + 3**TRITS - 1) // 3**TRITS + 128
    return (stored & 255).astype(np.uint8)


def trits_of(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `trit_bytes` along axis 2."""
    found = []
    for _ in range(TRITS):
        signed = data.view(np.int8)
        found.append((signed > -43).astype(np.uint8) + (signed > 42))
        data = data * np.uint8(3)
    return np.concatenate(found, axis=2)


def codes_of(data: NDArray[np.uint8], tiles: int, format: Format) -> NDArray[np.uint8]:
    """The inverse of `code_bytes`: uint8 [16·tiles, padded columns]."""
    chunk = chunk_columns(format)
    vectors = data.reshape(-1, tiles, chunk_bytes(format) // (TILE * 4), TILE * 4)
    steps = trits_of(vectors) if format.levels == 3 else _fields_of(vectors, format)
    steps = steps.reshape(len(vectors), tiles, chunk // 4, TILE, 4).transpose(1, 3, 0, 2, 4)
    return steps.reshape(tiles * TILE, -1)


def _fields_of(vectors: NDArray[np.uint8], format: Format) -> NDArray[np.uint8]:
    """Bit fields [chunk, tile, vectors, 64] to codes [chunk, tile, steps, 64]."""
    chunk = chunk_columns(format)
    u, at, shift = np.zeros((*vectors.shape[:2], chunk // 4, TILE * 4), np.uint8), 0, 0
    for width in FIELDS[format.bits]:
        count, slots = width * chunk // 32, 8 // width
        places = (np.arange(slots, dtype=np.uint8) * width)[:, None]
        field = (vectors[:, :, at : at + count, None, :] >> places) & (2**width - 1)
        u |= field.reshape(u.shape) << np.uint8(shift)
        at, shift = at + count, shift + width
    return u


def pack(weight: CodedWeight) -> NDArray[np.uint8]:
    """The weight's bytes, uint8 [num_bytes]."""
    shape = Shape.of(weight)
    _check(shape)
    u, all_scales, all_points = weight.unsigned(), scales_of(weight), point_bytes(weight)
    out = []
    for first, tiles in panels(shape.N):
        rows = slice(first, first + tiles * TILE)
        for run, columns in _runs(shape):
            count, height = run.stop - run.start, tiles * TILE
            codes = np.zeros((height, count * columns), np.uint8)
            part = u[rows, run.start * shape.block : run.stop * shape.block]
            codes[: part.shape[0], : part.shape[1]] = part
            fields = [code_bytes(codes, shape.format).reshape(count, -1)]
            if all_scales is not None:
                scales = np.zeros((count, height, all_scales.shape[2]), np.uint8)
                scales[:, : len(part)] = all_scales[rows, run].transpose(1, 0, 2)
                fields.append(scales.reshape(count, -1))
            if all_points is not None:
                points = np.zeros((count, height), np.uint8)
                points[:, : len(part)] = all_points[rows, run].T
                fields.append(points)
            out.append(np.concatenate(fields, axis=1).ravel())
    return np.concatenate(out) if out else np.zeros(0, np.uint8)


def unpack(data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    _check(shape)
    u = np.zeros((shape.N, shape.K), np.uint8)
    sized = scale_bytes(shape.scale_format)
    scale = np.zeros((shape.N, shape.num_blocks), np.float32) if sized else None
    points = np.zeros((shape.N, shape.num_blocks), np.uint8) if shape.has_point else None
    at = 0
    for first, tiles in panels(shape.N):
        height = min(shape.N - first, tiles * TILE)
        rows = slice(first, first + height)
        for run, columns in _runs(shape):
            count, size = run.stop - run.start, _code_size(shape, tiles, columns)
            end = at + count * block_bytes(shape, tiles, columns)
            fields, at = data[at:end].reshape(count, -1), end
            codes = codes_of(fields[:, :size].ravel(), tiles, shape.format)
            part = u[rows, run.start * shape.block : run.stop * shape.block]
            part[:] = codes[:height, : part.shape[1]]
            if scale is not None:
                raw = fields[:, size : size + height * sized]
                scale[rows, run] = shape.scales(raw).T  # type: ignore[union-attr]
            if points is not None:
                begin = size + tiles * TILE * sized
                points[rows, run] = fields[:, begin : begin + height].T
    return decode_parts(u, scale, points, shape)


N16K4 = Layout(NAME, pack, unpack, num_bytes)
