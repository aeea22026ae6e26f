# SPDX-License-Identifier: Apache-2.0
"""What every layout shares: bit fields, bit strings, and scales as bytes (docs/layouts.md)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.weight import CodedWeight

FIELDS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
SCALE_TYPES: dict[str, np.dtype] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4")}


@dataclass(frozen=True)
class Shape:
    """What a buffer alone does not say of its weight."""

    N: int
    K: int
    format: Format
    block_size: int
    scale_format: str
    has_zero_point: bool

    @property
    def block(self) -> int:
        """Columns of a full block."""
        return self.block_size or max(self.K, 1)

    @property
    def num_blocks(self) -> int:
        """ceil(K / block_size)."""
        return -(-self.K // self.block)

    @classmethod
    def of(cls, weight: CodedWeight) -> "Shape":
        """The shape of a weight."""
        n, k = weight.shape
        has_zero_point = weight.zero_point is not None
        return cls(n, k, weight.format, weight.block_size, weight.scale_format, has_zero_point)


@dataclass(frozen=True)
class Layout:
    """Byte order: pack, unpack, size; name and version as the `layout` attribute spells them."""

    name: str
    pack: Callable[[CodedWeight], NDArray[np.uint8]]
    unpack: Callable[[NDArray[np.uint8], Shape], CodedWeight]
    num_bytes: Callable[[Shape], int]


def scale_bytes(scale_format: str) -> int:
    """Bytes of one scale; 0 for "none"."""
    return 0 if scale_format == "none" else SCALE_TYPES[scale_format].itemsize


def scale_as_bytes(scale: NDArray[np.float32], scale_format: str) -> NDArray[np.uint8]:
    """Scales [..., n] as uint8 [..., n · bytes]."""
    return np.ascontiguousarray(scale, SCALE_TYPES[scale_format]).view(np.uint8)


def scale_from_bytes(data: NDArray[np.uint8], scale_format: str) -> NDArray[np.float32] | None:
    """The inverse of `scale_as_bytes`; None for "none"."""
    if scale_format == "none":
        return None
    stored: NDArray = np.ascontiguousarray(data).view(SCALE_TYPES[scale_format])
    return stored.astype(np.float32)


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
    zero_point: NDArray[np.uint8] | None,
    shape: Shape,
) -> CodedWeight:
    """Unpacked parts [N, …] as a weight."""
    return CodedWeight(
        unsigned.astype(np.int16) - np.int16(shape.format.offset),
        scale,
        None if zero_point is None else zero_point.astype(np.int16) - np.int16(shape.format.offset),
        shape.format,
        shape.block_size,
        shape.scale_format,
    )


def zero_point_bytes(weight: CodedWeight) -> NDArray[np.uint8] | None:
    """Zero points in units of u, uint8 [N, num_blocks]."""
    if weight.zero_point is None:
        return None
    return (weight.zero_point + weight.format.offset).astype(np.uint8)
