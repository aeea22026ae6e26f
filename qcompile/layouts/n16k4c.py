# SPDX-License-Identifier: Apache-2.0
"""n16k4c/1: n16k4/1 with the levels of every block before its codes, and no scales.

The levels of one output lie side by side, so that a vector of 64 bytes is its whole codebook, which
codes index in a register (docs/kernels.md).
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import get
from qcompile.formats.palette import PALETTES
from qcompile.layouts.layout import Layout, Shape
from qcompile.layouts.n16k4 import DENSE, N16K4, TILE, panels, runs
from qcompile.layouts.scales import FLOATS
from qcompile.numerics.weight import CodedWeight

NAME = "n16k4c/1"


def _plain(shape: Shape) -> Shape:
    """The shape of the codes alone."""
    if shape.format.name not in PALETTES or shape.scale_format not in FLOATS:
        raise ValueError(f"{NAME}: {shape.format} has no levels of f16 or f32")
    format = get(f"uint{shape.format.bits}")
    return Shape(shape.N, shape.K, format, shape.block_size, "none", False)


def num_bytes(shape: Shape) -> int:
    """Bytes of the whole buffer."""
    levels = -(-shape.N // TILE) * TILE * shape.num_blocks * shape.block_overhead
    return N16K4.num_bytes(_plain(shape)) + levels


def pack(weight: CodedWeight) -> NDArray[np.uint8]:
    """The weight's bytes, uint8 [num_bytes]."""
    shape = Shape.of(weight)
    plain, levels = _plain(shape), weight.levels
    assert levels is not None
    codes = N16K4.pack(
        CodedWeight(weight.codes, None, None, plain.format, plain.block_size, "none")
    )
    stored = np.ascontiguousarray(levels.astype(FLOATS[shape.scale_format])).view(np.uint8)
    if not np.array_equal(_numbers(stored, shape), levels):
        raise ValueError(f"{NAME}: levels are no {shape.scale_format}")
    out, at = [], 0
    for first, tiles in panels(shape.N):
        part = stored[first : first + tiles * TILE]
        wide = np.zeros((tiles * TILE, *stored.shape[1:]), np.uint8)
        wide[: len(part)] = part
        for run, columns in runs(DENSE, plain):
            count = run.stop - run.start
            end = at + count * DENSE.size(plain, tiles, columns)
            lead = wide[:, run].transpose(1, 0, 2).reshape(count, -1)
            fields = codes[at:end].reshape(count, -1)
            out.append(np.concatenate([lead, fields], axis=1).ravel())
            at = end
    return np.concatenate(out) if out else np.zeros(0, np.uint8)


def unpack(data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    plain, codes, at = _plain(shape), [], 0
    stored = np.zeros((shape.N, shape.num_blocks, shape.block_overhead), np.uint8)
    for first, tiles in panels(shape.N):
        height = min(shape.N - first, tiles * TILE)
        for run, columns in runs(DENSE, plain):
            count, lead = run.stop - run.start, tiles * TILE * shape.block_overhead
            end = at + count * (lead + DENSE.size(plain, tiles, columns))
            fields = data[at:end].reshape(count, -1)
            found = fields[:, :lead].reshape(count, tiles * TILE, -1)[:, :height]
            stored[first : first + height, run] = found.transpose(1, 0, 2)
            codes.append(fields[:, lead:].ravel())
            at = end
    found_codes = N16K4.unpack(np.concatenate(codes), plain).codes
    kind = shape.format, shape.block_size, shape.scale_format
    return CodedWeight(found_codes, None, None, *kind, levels=_numbers(stored, shape))


def _numbers(stored: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
    return stored.view(FLOATS[shape.scale_format]).astype(np.float32)


N16K4C = Layout(NAME, pack, unpack, num_bytes)
