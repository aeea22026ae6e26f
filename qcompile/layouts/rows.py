# SPDX-License-Identifier: Apache-2.0
"""rows/1: tables that are gathered row by row (docs/layouts.md)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.layouts.layout import (
    Layout,
    Shape,
    decode_parts,
    from_bits,
    point_bytes,
    scales_of,
    to_bits,
)
from qcompile.layouts.scales import scale_bytes
from qcompile.numerics.weight import CodedWeight

NAME = "rows/1"


def row_bytes(shape: Shape) -> int:
    """Bytes of one row: codes, scales, zero points."""
    return -(-shape.K * shape.format.bits // 8) + shape.num_blocks * shape.block_overhead


def num_bytes(shape: Shape) -> int:
    """Bytes of the whole buffer."""
    return shape.N * row_bytes(shape)


def pack(weight: CodedWeight) -> NDArray[np.uint8]:
    """The bytes of a table [N, K]."""
    parts = [to_bits(weight.unsigned(), weight.format.bits)]
    scales, points = scales_of(weight), point_bytes(weight)
    if scales is not None:
        parts.append(scales.reshape(len(scales), -1))
    if points is not None:
        parts.append(points)
    return np.concatenate(parts, axis=1).ravel()


def unpack(data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    table = data.reshape(shape.N, row_bytes(shape))
    at = -(-shape.K * shape.format.bits // 8)
    u = from_bits(np.ascontiguousarray(table[:, :at]), shape.K, shape.format.bits)
    sized = scale_bytes(shape.scale_format)
    end = at + shape.num_blocks * sized
    scale = shape.scales(table[:, at:end])
    points = table[:, end:] if shape.has_point else None
    return decode_parts(u, scale, points, shape)


ROWS = Layout(NAME, pack, unpack, num_bytes)
