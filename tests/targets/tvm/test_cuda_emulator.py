# SPDX-License-Identifier: Apache-2.0
"""The emulator: fragments as the PTX manual draws them, barriers, bounds, and what it refuses."""

import numpy as np
import pytest

from qcompile.targets.tvm import words
from qcompile.targets.tvm.cuda_emulator import EmulationError, Emulator, Launch, instruction

ONE_WARP = Launch((1, 1, 1), 32)

# One mma written by hand: rows and columns of each lane as the manual gives them.
MMA = """
__forceinline__ __device__ void qc_mma(int* sums, int a, int b) {{
  asm volatile("mma.sync.aligned.m8n8k{depth}.row.col.s32.{sign}{bits}.s{bits}.s32 {places};"
               : "+r"(sums[0]), "+r"(sums[1]) : "r"(a), "r"(b));
}}
extern "C" __global__ void __launch_bounds__(32) one_kernel(int* __restrict__ a_ptr, \
int* __restrict__ b_ptr, int* __restrict__ c_ptr) {{
  int sums[2];
  int row = threadIdx.x / 4, k = threadIdx.x % 4;
  sums[0] = c_ptr[row * 8 + k * 2];
  sums[1] = c_ptr[row * 8 + k * 2 + 1];
  qc_mma(sums, a_ptr[{a}], b_ptr[row * 4 + k]);
  c_ptr[row * 8 + k * 2] = sums[0];
  c_ptr[row * 8 + k * 2 + 1] = sums[1];
}}
"""
PLACES = "{%0,%1}, {%2}, {%3}, {%0,%1}"

SHARED = """
extern "C" __global__ void __launch_bounds__(64) one_kernel(int* __restrict__ x_ptr, \
int* __restrict__ y_ptr) {{
  __shared__ alignas(64) int tile[64];
  tile[threadIdx.x] = x_ptr[threadIdx.x];
  {barrier}
  y_ptr[threadIdx.x] = tile[{source}];
}}
"""


def mma(bits: int, *, is_signed: bool, places: str = PLACES, a: str = "row * 4 + k") -> Emulator:
    sign = "s" if is_signed else "u"
    return Emulator(MMA.format(depth=128 // bits, sign=sign, bits=bits, places=places, a=a))


def operands(bits: int, *, is_signed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(bits)
    half, depth = 1 << (bits - 1), 128 // bits
    low = -half if is_signed else 0
    a = rng.integers(low, low + 2 * half, (8, depth))
    b, c = rng.integers(-half, half, (8, depth)), rng.integers(-(10**9), 10**9, (8, 8))
    return a, b, c


def product(emulator: Emulator, bits: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict:
    named = {"a": words.pack(a, bits), "b": words.pack(b, bits), "c": c.astype(np.int32)}
    emulator.run("one_kernel", ONE_WARP, named)
    return named


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_signed", [False, True])
def test_mma_is_the_product_of_its_matrices(bits: int, is_signed: bool) -> None:
    a, b, c = operands(bits, is_signed=is_signed)
    found = product(mma(bits, is_signed=is_signed), bits, a, b, c)
    np.testing.assert_array_equal(found["c"], a @ b.T + c)


@pytest.mark.parametrize(
    ("places", "a"),
    [
        ("{%0,%1}, {%3}, {%2}, {%0,%1}", "row * 4 + k"),  # operands exchanged
        ("{%1,%0}, {%2}, {%3}, {%1,%0}", "row * 4 + k"),  # columns exchanged
        (PLACES, "k * 8 + row"),  # lanes in the order of columns
    ],
)
def test_a_wrong_fragment_is_found(places: str, a: str) -> None:
    x, w, c = operands(8, is_signed=False)
    found = product(mma(8, is_signed=False, places=places, a=a), 8, x, w, c)
    assert (found["c"] != x @ w.T + c).any()


def run_shared(
    barrier: str, source: str = "63 - threadIdx.x", *, is_backward: bool = False
) -> np.ndarray:
    emulator = Emulator(SHARED.format(barrier=barrier, source=source))
    y = np.zeros(64, np.int32)
    named = {"x": np.arange(64, dtype=np.int32), "y": y}
    emulator.run("one_kernel", Launch((1, 1, 1), 64), named, is_backward=is_backward)
    return y


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_barrier_makes_shared_memory_visible(is_backward: bool) -> None:
    found = run_shared("__syncthreads();", is_backward=is_backward)
    assert found.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize("is_backward", [False, True])
def test_a_missing_barrier_is_found(is_backward: bool) -> None:
    assert run_shared("", is_backward=is_backward).tolist() != list(range(63, -1, -1))


def test_a_barrier_that_some_threads_miss_is_an_error() -> None:
    with pytest.raises(EmulationError, match="wait for threads that do not come"):
        run_shared("if (threadIdx.x < 32) __syncthreads();")


def test_a_warp_instruction_that_some_lanes_miss_is_an_error() -> None:
    source = MMA.format(depth=16, sign="u", bits=8, places=PLACES, a="row * 4 + k")
    broken = source.replace("  qc_mma(sums", "  if (threadIdx.x) qc_mma(sums")
    with pytest.raises(EmulationError, match="wait for threads that do not come"):
        product(Emulator(broken), 8, *operands(8, is_signed=False))


def test_leaving_an_array_is_an_error() -> None:
    with pytest.raises(EmulationError, match=r"tile\[64\], 4 bytes, of 64"):
        run_shared("__syncthreads();", "threadIdx.x + 1")
    with pytest.raises(EmulationError, match=r"tile\[-1\], 4 bytes, of 64"):
        run_shared("__syncthreads();", "threadIdx.x - 1")


def test_unaligned_vectors_are_an_error() -> None:
    source = SHARED.format(barrier="__syncthreads();", source="threadIdx.x")
    source = source.replace("tile[threadIdx.x];", "((*(int4*)(tile + 2)).x);")
    with pytest.raises(EmulationError, match=r"tile\[2\], 16 bytes"):
        emulator = Emulator(source)
        named = {"x": np.zeros(64, np.int32), "y": np.zeros(64, np.int32)}
        emulator.run("one_kernel", Launch((1, 1, 1), 64), named)


@pytest.mark.parametrize(
    "text",
    [
        "mma.sync.aligned.m8n8k16.row.col.s32.u4.s4.s32 {%0,%1}, {%2}, {%3}, {%0,%1};",
        "mma.sync.aligned.m8n8k16.col.row.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};",
        "shfl.sync.bfly.b32 %0, %1, 1, 31, -1;",
    ],
)
def test_an_unknown_instruction_is_refused(text: str) -> None:
    with pytest.raises(EmulationError, match="no meaning is known"):
        instruction(text, '"+r"(a), "+r"(b)', '"r"(c), "r"(d)')


BLOCKS = """
extern "C" __global__ void __launch_bounds__(32) one_kernel(int* __restrict__ y_ptr) {
  y_ptr[(blockIdx.y * 5 + blockIdx.x) * 32 + threadIdx.x] = 1;
}
"""


@pytest.mark.parametrize(("block", "ran"), [(None, range(10)), (0, [0]), (7, [7]), (9, [9])])
def test_one_block_alone(block: int | None, ran: list[int]) -> None:
    y = np.zeros((10, 32), np.int32)
    Emulator(BLOCKS).run("one_kernel", Launch((5, 2, 1), 32), {"y": y}, block=block)
    assert np.flatnonzero(y.all(1)).tolist() == list(ran) and y.sum() == 32 * len(ran)
