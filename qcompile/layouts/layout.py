# SPDX-License-Identifier: Apache-2.0
"""What every layout shares: bit fields, bit strings, and what a block holds besides codes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format, scale_format
from qcompile.formats.scales import with_unit
from qcompile.layouts.scales import scale_as_bytes, scale_bytes, scale_from_bytes
from qcompile.numerics.weight import CodedWeight

FIELDS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


@dataclass(frozen=True)
class Shape:
    """What a buffer alone does not say of its weight."""

    N: int
    K: int
    format: Format
    block_size: int
    scale_format: str
    has_zero_point: bool
    tensor_scale: float = 1.0

    @property
    def block(self) -> int:
        """Columns of a full block."""
        return self.block_size or max(self.K, 1)

    @property
    def num_blocks(self) -> int:
        """ceil(K / block_size)."""
        return -(-self.K // self.block)

    @property
    def block_overhead(self) -> int:
        """Bytes of one output's block besides codes: scale, zero point, special value, levels."""
        if self.format.has_codebook:
            return scale_bytes(self.scale_format) << self.format.bits
        return scale_bytes(self.scale_format) + int(self.has_point)

    @property
    def has_point(self) -> bool:
        """Whether there is a byte for a zero point or a special value."""
        return self.has_zero_point or bool(self.format.specials)

    @classmethod
    def of(cls, weight: CodedWeight) -> "Shape":
        """The shape of a weight."""
        stored, unit = "none", 1.0
        if weight.levels is not None:
            stored = weight.scale_format
        if weight.scale is not None:
            form = scale_format(weight.scale_format)
            stored, unit = form.stored_as, float(form.unit)
        return cls(
            *weight.shape,
            weight.format,
            weight.block_size,
            stored,
            weight.zero_point is not None and not weight.format.specials,
            unit,
        )

    def scales(self, data: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Stored scales as numbers; None for "none"."""
        return scale_from_bytes(data, self.scale_format, self.tensor_scale)


@dataclass(frozen=True)
class Layout:
    """Byte order: pack, unpack, size; name and version as the `layout` attribute spells them."""

    name: str
    pack: Callable[[CodedWeight], NDArray[np.uint8]]
    unpack: Callable[[NDArray[np.uint8], Shape], CodedWeight]
    num_bytes: Callable[[Shape], int]


def to_bits(unsigned: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [rows, n] as bit strings, lowest bit first: uint8 [rows, ceil(n·bits/8)]."""
    if bits == 8:
        return unsigned
    each = (unsigned[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(each.reshape(len(unsigned), -1), axis=1, bitorder="little")


def from_bits(rows: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of `to_bits`: uint8 [rows, count]."""
    if bits == 8:
        return rows[:, :count]
    each = np.unpackbits(rows, axis=1, count=count * bits, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return (each.reshape(len(rows), count, bits) * weights).sum(axis=2, dtype=np.uint8)


def decode_parts(
    unsigned: NDArray[np.uint8],
    scale: NDArray[np.float32] | None,
    points: NDArray[np.uint8] | None,
    shape: Shape,
) -> CodedWeight:
    """Unpacked parts [N, …] as a weight; points are bytes of zero points or special values."""
    offset, point = np.int16(shape.format.offset), None
    if points is not None and shape.format.specials:
        point = np.ascontiguousarray(points).view(np.int8).astype(np.int16)
    elif points is not None:
        point = points.astype(np.int16) - offset
    return CodedWeight(
        unsigned.astype(np.int16) - offset,
        scale,
        point,
        shape.format,
        shape.block_size,
        with_unit(shape.scale_format, shape.tensor_scale),
    )


def scales_of(weight: CodedWeight) -> NDArray[np.uint8] | None:
    """Scales as stored, uint8 [N, num_blocks, bytes]; None where there are none."""
    if weight.levels is not None:
        raise ValueError(f"{weight.format} has levels of its own, which n16k4c/1 alone holds")
    if weight.scale is None:
        return None
    form = scale_format(weight.scale_format)
    stored = scale_as_bytes(weight.scale, form.stored_as, float(form.unit))
    return stored.reshape(*weight.scale.shape, -1)


def point_bytes(weight: CodedWeight) -> NDArray[np.uint8] | None:
    """Zero points in units of u, or special values as signed bytes: uint8 [N, num_blocks]."""
    if weight.zero_point is None:
        return None
    if weight.format.specials:
        return weight.zero_point.astype(np.int8).view(np.uint8)
    return (weight.zero_point + weight.format.offset).astype(np.uint8)
