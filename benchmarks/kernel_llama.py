# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's products (ggml_mul_mat) for benchmarks.kernels, where llama-cpp-python is there.

The weights are random floats as ggml quantizes them. Blocks are those of the type: 32 weights for
q8_0, q5_0 and q4_0, 128 for q1_0, 256 for the others, whatever the block of the row.
"""

import functools
from collections.abc import Iterator

import numpy as np

from benchmarks.ggml import Ggml, Products
from benchmarks.kernel_rows import Row
from benchmarks.work import Peer, Run, rotated

PANEL = 256  # outputs that are quantized, and repeated
# q2_0 is left out: ggml has no vector code for it on x86, and it takes 25 times as long as q2_K.
TYPES = {
    "int8": ("q8_0",),
    "int6": ("q6_K",),
    "int5": ("q5_0",),
    "int4": ("q4_0", "q4_K"),
    "int3": ("q3_K",),
    "int2": ("q2_K",),
    "ternary": ("tq2_0", "tq1_0"),
    "int1": ("q1_0", "tq1_0"),
    # With a smallest value a block, and those alone.
    "uint5": ("q5_K",),
    "uint4": ("q4_K",),
    "uint2": ("q2_K",),
}
shared = functools.cache(Ggml)


def llama_peers(row: Row, threads: int) -> Iterator[Peer]:
    """A peer for each type of the row's width; its activations always are quantized."""
    for kind in TYPES.get(row.format, ()):
        is_repacked = shared(threads).is_repacked(kind, row.k, row.n)
        name = f"llama.cpp {kind}" + (" repacked" if is_repacked else "")
        yield Peer(name, row.shape, functools.partial(_runs, kind, row, threads))


def _runs(kind: str, row: Row, threads: int) -> list[Run]:
    ggml = shared(threads)
    floats = np.random.default_rng(0).standard_normal((PANEL, row.k), dtype=np.float32)
    rows = np.tile(ggml.quantize(kind, floats), (row.n // PANEL, 1))
    x = row.inputs()

    def build(count: int) -> Run:
        return Products(ggml, kind, rows, x, count)

    return rotated(rows.nbytes, build, is_decode=row.m == 1)


def version() -> str:
    """Of ggml."""
    return f"ggml {shared(1).version()}"
