# SPDX-License-Identifier: Apache-2.0
"""The byte form of com.microsoft MatMulNBits: rows of blocks, low bits first.

B uint8 [N, num_blocks, block_size · bits / 8]; scales float32 [N, num_blocks]; zero points as a bit
string a row, uint8 [N, ceil(num_blocks · bits / 8)]. A row with one scale is cut in blocks that
repeat it.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import constant, derived_initializer
from qcompile.layouts.layout import to_bits
from qcompile.numerics.weight import CodedWeight, coded_weight
from qcompile.passes.lower.lowered import block_scales, matrix_codes
from qcompile.passes.lower.qdq import Weight

BLOCK_SIZES = (16, 32, 64, 128, 256)
LONGEST_BLOCK = 128
_B = "_B"  # suffix of the bytes' name


@dataclass(frozen=True)
class NBits:
    """The three initializers and what the op's attributes say."""

    B: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    N: int
    K: int
    bits: int
    block_size: int


def nbits_of(graph: ir.Graph, weight: Weight) -> NBits:
    """The weight's bytes as initializers, made when read, shared by all readers of the codes."""
    codes, n, k = matrix_codes(graph, weight)
    scale, point = block_scales(graph, weight, n)
    spec = weight.spec
    block_size = spec.block_size or block_of_row(k)
    num_blocks = -(-k // block_size)
    blob = block_size * spec.bits // 8

    def read() -> CodedWeight:
        arrays = (constant(codes), constant(scale), constant(point))
        assert arrays[0] is not None
        return coded_weight(
            spec.format, spec.block_size, spec.scale_format, arrays[0], arrays[1], arrays[2]
        )

    shapes = {
        _B: (ir.DataType.UINT8, (n, num_blocks, blob), lambda: blobs(read(), block_size)),
        "_nbits_scale": (
            ir.DataType.FLOAT,
            (n, num_blocks),
            lambda: repeated(read().scale, num_blocks),
        ),
        "_nbits_zero_point": (
            ir.DataType.UINT8,
            (n, -(-num_blocks * spec.bits // 8)),
            lambda: zero_points(read(), num_blocks),
        ),
    }
    made = []
    for suffix, (dtype, shape, compute) in shapes.items():
        lazy = ir.LazyTensor(
            lambda c=compute: ir.tensor(np.ascontiguousarray(c())),  # type: ignore[misc]
            dtype,
            ir.Shape(shape),
        )
        made.append(derived_initializer(graph, codes, suffix, lambda made=lazy: made))  # type: ignore[misc]
    return NBits(made[0], made[1], made[2], n, k, spec.bits, block_size)


def is_packed_as_nbits(weight: Weight) -> bool:
    """Whether `nbits_of` was asked for these codes."""
    return _B in weight.codes.meta


def block_of_row(k: int) -> int:
    """The block that a row with one scale is cut in: the smallest one that holds it, at most 128.

    >>> block_of_row(64), block_of_row(4096)
    (64, 128)
    """
    return next((b for b in BLOCK_SIZES if b >= k), LONGEST_BLOCK)


def blobs(weight: CodedWeight, block_size: int) -> NDArray[np.uint8]:
    """[N, num_blocks, block_size · bits / 8]; the tail of K is padded with code 0."""
    n, k = weight.shape
    num_blocks = -(-k // block_size)
    unsigned = np.pad(weight.unsigned(), ((0, 0), (0, num_blocks * block_size - k)))
    return to_bits(unsigned, weight.format.bits).reshape(n, num_blocks, -1)


def repeated(per_block: NDArray | None, num_blocks: int) -> NDArray:
    """[N, 1] repeated to [N, num_blocks]; [N, num_blocks] as it is."""
    assert per_block is not None
    return np.broadcast_to(per_block, (len(per_block), num_blocks))


def zero_points(weight: CodedWeight, num_blocks: int) -> NDArray[np.uint8]:
    """Zero points in units of the unsigned codes; a symmetric weight has its offset everywhere."""
    offset = weight.format.offset
    if weight.zero_point is None:
        points = np.full((len(weight.codes), num_blocks), offset, np.uint8)
    else:
        points = repeated(weight.zero_point + offset, num_blocks).astype(np.uint8)
    return to_bits(points, weight.format.bits)
