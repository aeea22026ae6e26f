# SPDX-License-Identifier: Apache-2.0
"""Dot products of unsigned codes with signed weights on x86-64, as schedules use them.

vnni    16 outputs × 4 codes, vpdpbusd on 512 bits
avx2    16 outputs × 2 codes, widened to int16, vpmaddwd: u8 · s8 pairs are exact there
        (vpmaddubsw would saturate)
plain   16 outputs × 1 code, what LLVM makes of it on any processor
"""

from dataclasses import dataclass
from typing import Any

from tvm import te
from tvm.s_tir import TensorIntrin

from qcompile.targets.tvm import llvm_intrinsics

LANES = 16


@dataclass(frozen=True)
class Dot:
    """One instruction: codes that it reduces, and the accumulators that fit into registers."""

    name: str
    depth: int
    most_tiles: int
    intrinsic: str | None


VNNI = Dot("vnni", 4, 16, "qcompile_dot_16x4_vnni")
AVX2 = Dot("avx2", 2, 6, "qcompile_dot_16x2_avx2")
PLAIN = Dot("plain", 1, 4, None)
"""Sums of 16 int32 take one zmm, two ymm (16 of them, 4 left for operands), or what there is."""


def dot_for(features: frozenset[str]) -> Dot:
    """The best instruction for a processor with these LLVM features.

    >>> dot_for(frozenset({"avx512vnni", "avx2"})).name, dot_for(frozenset({"avx2"})).name
    ('vnni', 'avx2')
    """
    if "avx512vnni" in features:
        return VNNI
    return AVX2 if "avx2" in features else PLAIN


def register() -> None:
    """Makes the intrinsics known to TVM."""
    for dot, description, body in (
        (VNNI, llvm_intrinsics.dot_16x4, llvm_intrinsics.dot_16x4_vnni),
        (AVX2, llvm_intrinsics.dot_16x2, llvm_intrinsics.dot_16x2_avx2),
    ):
        TensorIntrin.register(dot.intrinsic, description, body, override=True)


def sums(x: Any, weight: Any, shape: tuple[int, ...], strides: tuple[int, int]) -> Any:
    """[B, OH, OW, N/16, 16] of x [B, H, W, C] and weight [N/16, kh, kw, C/depth, 16, depth]."""
    _, kh, kw, chunks, _, depth = (int(extent) for extent in weight.shape)
    i, j = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    k, f = te.reduce_axis((0, chunks), "k"), te.reduce_axis((0, depth), "f")

    def one(b: Any, oh: Any, ow: Any, no: Any, ni: Any) -> Any:
        code = x[b, oh * strides[0] + i, ow * strides[1] + j, k * depth + f]
        value = weight[no, i, j, k, ni, f]
        return te.sum(code.astype("int32") * value.astype("int32"), axis=[i, j, k, f])

    return te.compute(shape, one, name="sums")
