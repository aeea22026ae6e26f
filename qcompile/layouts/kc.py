# SPDX-License-Identifier: Apache-2.0
"""kc/1: depthwise weights, one bit string of channels a tap (docs/layouts.md)."""

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

NAME = "kc/1"


def num_bytes(shape: Shape) -> int:
    """Bytes of the whole buffer."""
    return shape.K * -(-shape.N * shape.format.bits // 8) + shape.N * shape.block_overhead


def pack(weight: CodedWeight) -> NDArray[np.uint8]:
    """The bytes of a depthwise weight [C, kh·kw]."""
    if weight.num_blocks > 1:
        raise ValueError(f"{NAME}: one scale a channel; {weight.num_blocks} blocks were given")
    parts = [to_bits(np.ascontiguousarray(weight.unsigned().T), weight.format.bits).ravel()]
    scales, points = scales_of(weight), point_bytes(weight)
    if scales is not None:
        parts.append(scales.ravel())
    if points is not None:
        parts.append(points[:, 0])
    return np.concatenate(parts)


def unpack(data: NDArray[np.uint8], shape: Shape) -> CodedWeight:
    """The inverse of `pack`."""
    at = shape.K * -(-shape.N * shape.format.bits // 8)
    u = from_bits(data[:at].reshape(shape.K, -1), shape.N, shape.format.bits).T
    end = at + shape.N * scale_bytes(shape.scale_format)
    scale = shape.scales(data[at:end].reshape(shape.N, -1))
    points = data[end : end + shape.N][:, None] if shape.has_point else None
    return decode_parts(u, scale, points, shape)


KC = Layout(NAME, pack, unpack, num_bytes)
