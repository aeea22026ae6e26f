# SPDX-License-Identifier: Apache-2.0
"""Dot products of unsigned codes with signed weights on x86-64: the instructions that schedules use.

    vnni    16 outputs × 4 codes, vpdpbusd on 512 bits
    avx2    16 outputs × 2 codes, widened to int16, vpmaddwd: u8 · s8 pairs are exact there
            (vpmaddubsw would saturate)
    plain   16 outputs × 1 code, what LLVM makes of it on any processor
"""

from dataclasses import dataclass
from typing import Any

from tvm import te
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

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


@T.prim_func(s_tir=True)
def dot_16x4(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        for i in range(16):
            for k in range(4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")


@T.prim_func(s_tir=True)
def dot_16x4_vnni(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        C[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            C.vload([0], dtype="int32x16"),
            T.reinterpret(
                T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), 16),
                dtype="int8x64",
            ),
            B.vload([0, 0], dtype="int8x64"),
            dtype="int32x16",
        )


@T.prim_func(s_tir=True)
def dot_16x2(
    A: T.Buffer((2,), "uint8", offset_factor=1),
    B: T.Buffer((16, 2), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:2], B[0:16, 0:2])
        T.writes(C[0:16])
        for i in range(16):
            for k in range(2):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")


@T.prim_func(s_tir=True)
def dot_16x2_avx2(
    A: T.Buffer((2,), "uint8", offset_factor=1),
    B: T.Buffer((16, 2), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:2], B[0:16, 0:2])
        T.writes(C[0:16])
        for half in T.unroll(2):
            C[T.ramp(half * 8, 1, 8)] = C.vload([half * 8], dtype="int32x8") + (
                T.call_llvm_pure_intrin(
                    T.llvm_lookup_intrinsic_id("llvm.x86.avx2.pmadd.wd"),
                    T.reinterpret(
                        T.broadcast(
                            T.reinterpret(
                                T.cast(A.vload([0], "uint8x2"), "int16x2"), dtype="int32"
                            ),
                            8,
                        ),
                        dtype="int16x16",
                    ),
                    T.cast(B.vload([half * 8, 0], dtype="int8x16"), "int16x16"),
                    dtype="int32x8",
                )
            )


def register() -> None:
    """Makes the intrinsics known to TVM."""
    for dot, description, body in (
        (VNNI, dot_16x4, dot_16x4_vnni),
        (AVX2, dot_16x2, dot_16x2_avx2),
    ):
        TensorIntrin.register(dot.intrinsic, description, body, override=True)


def sums(x: Any, weight: Any, shape: tuple[int, ...], strides: tuple[int, int]) -> Any:
    """te: x [B, H, W, C] padded, weight [N/16, kh, kw, C/depth, 16, depth] to [B, OH, OW, N/16, 16]."""
    _, kh, kw, chunks, _, depth = (int(extent) for extent in weight.shape)
    i, j = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    k, f = te.reduce_axis((0, chunks), "k"), te.reduce_axis((0, depth), "f")

    def one(b: Any, oh: Any, ow: Any, no: Any, ni: Any) -> Any:
        code = x[b, oh * strides[0] + i, ow * strides[1] + j, k * depth + f]
        value = weight[no, i, j, k, ni, f]
        return te.sum(code.astype("int32") * value.astype("int32"), axis=[i, j, k, f])

    return te.compute(shape, one, name="sums")
