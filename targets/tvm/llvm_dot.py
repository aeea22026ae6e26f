# SPDX-License-Identifier: Apache-2.0
"""Dot products of unsigned codes with signed weights on x86-64, as schedules use them.

vnni    16 outputs × 4 codes, vpdpbusd on 512 bits
avx2    16 outputs × 2 codes as int16, vpmaddwd: u8 · s8 pairs are exact there
        (vpmaddubsw would saturate)
narrow  16 outputs × 4 codes, vpmaddubsw on AVX2, where no pair of the layer's weights can saturate
plain   16 outputs × 1 code, what LLVM makes of it on any processor
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.s_tir import TensorIntrin

from qcompile.integer_graph import Conv
from qcompile.targets.tvm import llvm_intrinsics

LANES = 16


@dataclass(frozen=True)
class Dot:
    """One instruction: codes that it reduces, their type, and the tile of sums in registers.

    A tile is rows (output pixels) × panels (of 16 outputs); row_cost: instructions of a row, in
    those that a tile's weights take.
    """

    name: str
    depth: int
    operand: str
    rows: int
    panels: int
    row_cost: int
    intrinsic: str | None


# 16 sums take one zmm of 32, or two ymm of 16: 12 for sums, 2 for weights, 1 for a code, 1 between;
# narrow needs one more, of ones.
VNNI = Dot("vnni", 4, "uint8", 12, 2, 2, "qcompile_dot_16x4_vnni")
AVX2 = Dot("avx2", 2, "int16", 6, 1, 2, "qcompile_dot_16x2_avx2")
NARROW = Dot("narrow", 4, "uint8", 5, 1, 2, "qcompile_dot_16x4_avx2")
PLAIN = Dot("plain", 1, "uint8", 4, 1, 2, None)


def dot_for(features: frozenset[str]) -> Dot:
    """The best instruction for a processor with these LLVM features.

    >>> dot_for(frozenset({"avx512vnni", "avx2"})).name, dot_for(frozenset({"avx2"})).name
    ('vnni', 'avx2')
    """
    if "avx512vnni" in features:
        return VNNI
    return AVX2 if "avx2" in features else PLAIN


def dot_of(conv: Conv, dot: Dot) -> Dot:
    """The dot product of one layer of a network that has `dot`."""
    return NARROW if dot == AVX2 and is_narrow(conv) else dot


def is_narrow(conv: Conv) -> bool:
    """Whether u8 · s8 pairs of this layer fit int16: of weights up to 7 bits they always do.

    A pair of channels adds at most x · (w + w') of one sign, for the largest code x.
    """
    largest = 255 if conv.x.is_signed else conv.x.range[1]
    N, C = len(conv.weight), conv.weight.shape[3]
    wide = np.zeros((*conv.weight.shape[:3], C + C % 2), np.int32)
    wide[..., :C] = conv.weight
    pairs = wide.reshape(N, -1, 2)
    most = np.maximum(pairs, 0).sum(axis=2).max() * largest
    least = np.minimum(pairs, 0).sum(axis=2).min() * largest
    return bool(most < 1 << 15 and least >= -(1 << 15))


def register() -> None:
    """Makes the intrinsics known to TVM."""
    for dot, description, body in (
        (VNNI, llvm_intrinsics.dot_16x4, llvm_intrinsics.dot_16x4_vnni),
        (AVX2, llvm_intrinsics.dot_16x2, llvm_intrinsics.dot_16x2_avx2),
        (NARROW, llvm_intrinsics.dot_16x4, llvm_intrinsics.dot_16x4_avx2),
    ):
        TensorIntrin.register(dot.intrinsic, description, body, override=True)


@dataclass(frozen=True)
class Rows:
    """The rows of a convolution's product: M output pixels, in tiles; M − 1 fills the last."""

    M: int
    tile: int
    conv: Conv

    @property
    def padded(self) -> int:
        """Whole tiles."""
        return -(-self.M // self.tile) * self.tile


def place(m: Any, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Sample, row and column of pixel m of maps [H, W, C]."""
    H, W = shape[:2]
    return m // (H * W), m % (H * W) // W, m % W


def sums(x: Any, weight: Any, rows: Rows) -> Any:
    """[N/16, M, 16] of x [B, H, W, C] and weight [N/16, kh, kw, C/depth, 16, depth]."""
    count, kh, kw, chunks, _, depth = (int(extent) for extent in weight.shape)
    i, j = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    k, f = te.reduce_axis((0, chunks), "k"), te.reduce_axis((0, depth), "f")
    (sh, sw), shape = rows.conv.window.strides, rows.conv.y.shape

    def one(no: Any, m: Any, ni: Any) -> Any:
        inside = m if rows.padded == rows.M else tirx.min(m, rows.M - 1)
        b, oh, ow = place(inside, shape)
        code = x[b, oh * sh + i, ow * sw + j, k * depth + f]
        value = weight[no, i, j, k, ni, f]
        return te.sum(code.astype("int32") * value.astype("int32"), axis=[i, j, k, f])

    return te.compute((count, rows.padded, LANES), one, name="sums")
