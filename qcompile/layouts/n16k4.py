# SPDX-License-Identifier: Apache-2.0
"""n16k4/1: dense weights in the order of use (docs/layouts.md).

n16k4s.py and n16k4q.py keep its panels and blocks and have codes of their own inside; n16k4p.py has
special values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
Codes = NDArray[np.uint8]


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


@dataclass(frozen=True)
class Coding:
    """Codes inside a block.

    to_bytes takes codes u [16·tiles, padded columns], and u of the value 0 as they are (None unless
    needs_zeros); from_bytes takes a block's bytes, its tiles and these, and gives the codes back.
    """

    name: str
    chunk_columns: Callable[[Format], int]
    chunk_bytes: Callable[[Format], int]
    to_bytes: Callable[[Codes, Codes | None, Format], Codes]
    from_bytes: Callable[[Codes, int, Codes | None, Format], Codes]
    needs_zeros: bool = False
    has_special: bool = False  # the bytes of a block's points stand before its codes

    def padded(self, k: int, format: Format) -> int:
        """k rounded up to whole chunks."""
        chunk = self.chunk_columns(format)
        return -(-k // chunk) * chunk

    def size(self, shape: Shape, tiles: int, columns: int) -> int:
        """Bytes of the codes of one block of one panel."""
        chunks = columns // self.chunk_columns(shape.format)
        return tiles * chunks * self.chunk_bytes(shape.format)

    def zeros(self, points: Codes | None, shape: Shape, columns: int) -> Codes | None:
        """u of the value 0 [outputs, columns · blocks]; points [outputs, blocks]."""
        if not self.needs_zeros:
            return None
        if points is not None:
            return np.repeat(points, columns, axis=1)
        return np.full((1, 1), zero_of(shape.format), np.uint8)


def zero_of(format: Format) -> int:
    """u of the value 0 where there is no zero point; ValueError where the format has none."""
    if format.zero_code is None:
        raise ValueError(f"{format} has no code for 0, which sparse codes leave out")
    return format.zero_code + format.offset


def panels(n: int) -> list[tuple[int, int]]:
    """(first output, tiles) of every panel.

    >>> panels(90)
    [(0, 4), (64, 2)]
    """
    panel = TILE * PANEL_TILES
    return [(first, -(-min(n - first, panel) // TILE)) for first in range(0, n, panel)]


def _block_bytes(coding: Coding, shape: Shape, tiles: int, columns: int) -> int:
    """Bytes of one block of one panel: codes, scales, zero points."""
    return coding.size(shape, tiles, columns) + tiles * TILE * shape.block_overhead


def num_bytes(coding: Coding, shape: Shape) -> int:
    """Bytes of the whole buffer."""
    full, rest = divmod(-(-shape.N // TILE), PANEL_TILES)
    counts = ((full, PANEL_TILES), (int(rest > 0), rest))
    sizes = [(run.stop - run.start, columns) for run, columns in runs(coding, shape)]
    return sum(
        n * count * _block_bytes(coding, shape, tiles, columns)
        for n, tiles in counts
        if n
        for count, columns in sizes
    )


def runs(coding: Coding, shape: Shape) -> list[tuple[slice, int]]:
    """(blocks, padded columns of each) of the full blocks, and of a short last one."""
    full = shape.K // shape.block
    padded = coding.padded(shape.block, shape.format)
    found = [(slice(0, full), padded)] if full else []
    if shape.K % shape.block:
        short = coding.padded(shape.K % shape.block, shape.format)
        found.append((slice(full, full + 1), short))
    return found


def _check(coding: Coding, shape: Shape) -> None:
    chunk = coding.chunk_columns(shape.format)
    if shape.format.has_codebook:
        raise ValueError(f"{coding.name}: {shape.format} has levels of its own, for n16k4c/1")
    if bool(shape.format.specials) != coding.has_special:
        raise ValueError(f"{coding.name}: {shape.format} has {len(shape.format.specials)} specials")
    if shape.num_blocks > 1 and shape.block % chunk:
        raise ValueError(
            f"{coding.name}: block size {shape.block} of {shape.format} is no multiple of {chunk}"
        )


def steps_of(u: Codes, chunk: int) -> Codes:
    """Codes [16·tiles, padded columns] as [chunk, tile, step, 64]: 4 columns of 16 outputs."""
    steps = u.reshape(len(u) // TILE, TILE, -1, chunk // 4, 4).transpose(2, 0, 3, 1, 4)
    return steps.reshape(*steps.shape[:3], TILE * 4)


def codes_of_steps(steps: Codes) -> Codes:
    """The inverse of `steps_of`."""
    chunks, tiles, count, _ = steps.shape
    codes = steps.reshape(chunks, tiles, count, TILE, 4).transpose(1, 3, 0, 2, 4)
    return codes.reshape(tiles * TILE, -1)


def field_bytes(steps: Codes, bits: int) -> Codes:
    """Bit fields of codes [chunk, tile, step, V]: vectors of V bytes [chunk, tile, vector, V]."""
    parts, shift = [], 0
    for width in FIELDS[bits]:
        field = (steps >> shift) & (2**width - 1)
        slots = 8 // width
        field = field.reshape(*field.shape[:2], -1, slots, steps.shape[3])
        places = (np.arange(slots, dtype=np.uint8) * width)[:, None]
        parts.append(np.bitwise_or.reduce(field << places, axis=3))
        shift += width
    return np.concatenate(parts, axis=2)


def _to_bytes(u: Codes, _: Codes | None, format: Format) -> Codes:
    steps = steps_of(u, chunk_columns(format))
    return (trit_bytes(steps) if format.levels == 3 else field_bytes(steps, format.bits)).ravel()


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


def _from_bytes(data: Codes, tiles: int, _: Codes | None, format: Format) -> Codes:
    vectors = data.reshape(-1, tiles, chunk_bytes(format) // (TILE * 4), TILE * 4)
    return codes_of_steps(
        trits_of(vectors) if format.levels == 3 else steps_of_fields(vectors, format.bits)
    )


def steps_of_fields(vectors: Codes, bits: int) -> Codes:
    """The inverse of `field_bytes`."""
    steps = vectors.shape[2] * 8 // bits
    u, at, shift = np.zeros((*vectors.shape[:2], steps, vectors.shape[3]), np.uint8), 0, 0
    for width in FIELDS[bits]:
        count, slots = width * steps // 8, 8 // width
        places = (np.arange(slots, dtype=np.uint8) * width)[:, None]
        field = (vectors[:, :, at : at + count, None, :] >> places) & (2**width - 1)
        u |= field.reshape(u.shape) << np.uint8(shift)
        at, shift = at + count, shift + width
    return u


def pack(weight: CodedWeight, coding: Coding | None = None) -> NDArray[np.uint8]:
    """The weight's bytes, uint8 [num_bytes]; coding: DENSE where it is None."""
    shape, coding = Shape.of(weight), coding or DENSE
    _check(coding, shape)
    u, all_scales, all_points = weight.unsigned(), scales_of(weight), point_bytes(weight)
    out = []
    for first, tiles in panels(shape.N):
        rows = slice(first, first + tiles * TILE)
        for run, columns in runs(coding, shape):
            count, height = run.stop - run.start, tiles * TILE
            part = u[rows, run.start * shape.block : run.stop * shape.block]
            points = None
            if all_points is not None:
                points = np.zeros((height, count), np.uint8)
                points[: len(part)] = all_points[rows, run]
            zeros = coding.zeros(points, shape, columns)
            codes = np.zeros((height, count * columns), np.uint8)
            if zeros is not None:
                codes[:] = zeros
            codes[: part.shape[0], : part.shape[1]] = part
            fields = [coding.to_bytes(codes, zeros, shape.format).reshape(count, -1)]
            if all_scales is not None:
                scales = np.zeros((count, height, all_scales.shape[2]), np.uint8)
                scales[:, : len(part)] = all_scales[rows, run].transpose(1, 0, 2)
                fields.append(scales.reshape(count, -1))
            if points is not None:
                fields.insert(0 if coding.has_special else len(fields), points.T)
            out.append(np.concatenate(fields, axis=1).ravel())
    return np.concatenate(out) if out else np.zeros(0, np.uint8)


def unpack(coding: Coding, data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    _check(coding, shape)
    u = np.zeros((shape.N, shape.K), np.uint8)
    sized = scale_bytes(shape.scale_format)
    scale = np.zeros((shape.N, shape.num_blocks), np.float32) if sized else None
    points = np.zeros((shape.N, shape.num_blocks), np.uint8) if shape.has_point else None
    at = 0
    for first, tiles in panels(shape.N):
        height = min(shape.N - first, tiles * TILE)
        rows = slice(first, first + height)
        for run, columns in runs(coding, shape):
            count, size = run.stop - run.start, coding.size(shape, tiles, columns)
            end = at + count * _block_bytes(coding, shape, tiles, columns)
            fields, at = data[at:end].reshape(count, -1), end
            stored = None
            if points is not None:
                fields, stored = _split(coding, fields, tiles * TILE)
                points[rows, run] = stored[:height]
            zeros = coding.zeros(stored, shape, columns)
            codes = coding.from_bytes(fields[:, :size].ravel(), tiles, zeros, shape.format)
            part = u[rows, run.start * shape.block : run.stop * shape.block]
            part[:] = codes[:height, : part.shape[1]]
            if scale is not None:
                raw = fields[:, size : size + height * sized]
                scale[rows, run] = shape.scales(raw).T  # type: ignore[union-attr]
    return decode_parts(u, scale, points, shape)


def _split(coding: Coding, fields: Codes, width: int) -> tuple[Codes, Codes]:
    """Blocks [count, bytes] without their points, and these [width, count]."""
    if coding.has_special:
        return fields[:, width:], fields[:, :width].T
    return fields[:, :-width], fields[:, -width:].T


def layout_of(coding: Coding) -> Layout:
    """The layout with such codes."""
    return Layout(
        coding.name,
        partial(pack, coding=coding),
        partial(unpack, coding),
        partial(num_bytes, coding),
    )


DENSE = Coding("n16k4/1", chunk_columns, chunk_bytes, _to_bytes, _from_bytes)
N16K4 = layout_of(DENSE)
