# SPDX-License-Identifier: Apache-2.0
"""rows/1: tables that are gathered row by row (docs/layouts.md)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.layouts.layout import (
    Layout,
    Shape,
    decode_parts,
    from_bits,
    scale_as_bytes,
    scale_bytes,
    scale_from_bytes,
    to_bits,
    zero_point_bytes,
)
from qcompile.numerics.weight import CodedWeight

NAME = "rows/1"


def row_bytes(shape: Shape) -> int:
    """Bytes of one row: codes, scales, zero points."""
    per_block = scale_bytes(shape.scale_format) + int(shape.has_zero_point)
    return -(-shape.K * shape.format.bits // 8) + shape.num_blocks * per_block


def num_bytes(shape: Shape) -> int:
    """Bytes of the whole buffer."""
    return shape.N * row_bytes(shape)


def pack(weight: CodedWeight) -> NDArray[np.uint8]:
    """The bytes of a table [N, K]."""
    parts = [to_bits(weight.unsigned(), weight.format.bits)]
    if weight.scale is not None:
        parts.append(scale_as_bytes(weight.scale, weight.scale_format))
    zero_point = zero_point_bytes(weight)
    if zero_point is not None:
        parts.append(zero_point)
    return np.concatenate(parts, axis=1).ravel()


def unpack(data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    table = data.reshape(shape.N, row_bytes(shape))
    at = -(-shape.K * shape.format.bits // 8)
    u = from_bits(np.ascontiguousarray(table[:, :at]), shape.K, shape.format.bits)
    sized = scale_bytes(shape.scale_format)
    end = at + shape.num_blocks * sized
    scale = scale_from_bytes(table[:, at:end], shape.scale_format)
    points = table[:, end:] if shape.has_zero_point else None
    return decode_parts(u, scale, points, shape)


ROWS = Layout(NAME, pack, unpack, num_bytes)
