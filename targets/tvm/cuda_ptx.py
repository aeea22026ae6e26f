# SPDX-License-Identifier: Apache-2.0
"""The PTX instructions that the CUDA kernels call, as device functions around inline assembly."""

from typing import Any

from tvm.tirx.script.builder import ir as T


def mma_name(bits: int, *, is_signed: bool) -> str:
    """The function of one mma: activations of the given kind, signed weights of the same width."""
    return f"qc_mma_{'s' if is_signed else 'u'}{bits}"


def mma_instruction(bits: int, *, is_signed: bool) -> str:
    """The PTX name (ISA 8.x, section Matrix Fragments for mma.m8n8k16 and mma.m8n8k32).

    >>> mma_instruction(4, is_signed=False)
    'mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32'
    """
    depth = 4 * 32 // bits
    sign = "s" if is_signed else "u"
    return f"mma.sync.aligned.m8n8k{depth}.row.col.s32.{sign}{bits}.s{bits}.s32"


def mma(sums: Any, a: Any, b: Any, bits: int, *, is_signed: bool) -> Any:
    """sums[0:2] += a · b of one warp; a and b are one word a lane."""
    name = mma_name(bits, is_signed=is_signed)
    source = f"""
__forceinline__ __device__ void {name}(int* sums, int a, int b) {{
  asm volatile("{mma_instruction(bits, is_signed=is_signed)} {{%0,%1}}, {{%2}}, {{%3}}, {{%0,%1}};"
               : "+r"(sums[0]), "+r"(sums[1]) : "r"(a), "r"(b));
}}
"""
    return T.cuda.func_call(name, sums, a, b, source_code=source)


def dp4a(total: Any, x: Any, w: Any, *, is_signed: bool) -> Any:
    """total + the product of four codes of x with four signed ones of w."""
    sign = "s" if is_signed else "u"
    source = f"""
__forceinline__ __device__ int qc_dp4a_{sign}8(int total, int x, int w) {{
  int sum;
  asm("dp4a.{sign}32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(w), "r"(total));
  return sum;
}}
"""
    return T.cuda.func_call(
        f"qc_dp4a_{sign}8", total, x, w, source_code=source, return_type="int32"
    )
