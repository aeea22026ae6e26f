# SPDX-License-Identifier: Apache-2.0
"""Runs CUDA source as TVM generates it on the CPU, lane by lane, with the fragments of PTX.

The source is compiled by a C++ compiler behind cuda_emulator.inc: blocks run one after the other,
threads are fibers, and each instruction of the inline assembly is executed as its PTX text says.
Index arithmetic, barriers, shared memory and fragment layouts are thereby tested bit for bit; time
and memory coalescing are not.
"""

import ctypes
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from qcompile.targets.tvm.toolchain import compiler, run

HEAD = Path(__file__).with_name("cuda_emulator.inc")
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-fwrapv", "-w")
ASSEMBLY = re.compile(r'asm(?: volatile)?\s*\(\s*"([^"]*)"\s*:(.*?):(.*?)\);', re.DOTALL)
OPERAND = re.compile(r'"[=+]?r"\(((?:[^()]|\([^()]*\))*)\)')
SHARED = re.compile(r"__shared__ alignas\((\d+)\) ([a-z]\w*) (\w+)\[(\d+)\];")
KERNEL = re.compile(
    r'extern "C" __global__ void __launch_bounds__\((\d+)\) (\w+)\(([^)]*)\)( \{|;)'
)
PARAMETER = re.compile(r"([a-z][a-z ]*)\* __restrict__ (\w+)")
SIZES = {"int": 4, "uint": 4, "ushort": 2, "uchar": 1, "short": 2, "signed char": 1}
MMA = re.compile(
    r"mma\.sync\.aligned\.m8n8k(16|32)\.row\.col\.s32\.([us])([48])\.([us])([48])\.s32"
)
DP4A = re.compile(r"dp4a\.([us])32\.([us])32")


class EmulationError(RuntimeError):
    """The source does what no GPU could: out of bounds, a deadlock, an unknown instruction."""


@dataclass(frozen=True)
class Launch:
    """Blocks along x, y, z, and threads of a block."""

    grid: tuple[int, int, int]
    threads: int

    @property
    def num_blocks(self) -> int:
        """Of the grid."""
        return math.prod(self.grid)


class Emulator:
    """Kernels of one CUDA source, compiled for the CPU."""

    def __init__(self, source: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="qcompile-emulator-")
        path, library = Path(self._folder.name, "kernels.cc"), Path(self._folder.name, "kernels.so")
        path.write_text(HEAD.read_text() + translate(source))
        run([compiler(), *FLAGS, str(path), "-o", str(library)])
        self._library = ctypes.CDLL(str(library))
        # TVM passes buffers in an order of its own; their names tell which is which.
        self._names = {m[2]: PARAMETER.findall(m[3]) for m in KERNEL.finditer(source)}

    def run(
        self,
        kernel: str,
        launch: Launch,
        named: Mapping[str, NDArray],
        *,
        is_backward: bool = False,
        block: int | None = None,
    ) -> None:
        """Runs a kernel on C-contiguous arrays by name, in place, or raises EmulationError.

        block: the only one that runs, counted along x, y, z; None for all.
        """
        arrays = [named[name.removesuffix("_ptr")] for _, name in self._names[kernel]]
        assert all(a.flags.c_contiguous for a in arrays)
        function = getattr(self._library, f"emulate_{kernel}")
        function.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        sizes = (ctypes.c_int64 * len(arrays))(*(a.nbytes for a in arrays))
        grid = (ctypes.c_int * 3)(*launch.grid)
        only = -1 if block is None else block
        problem = function(pointers, sizes, grid, launch.threads, int(is_backward), only)
        if problem is not None:
            raise EmulationError(f"{kernel}: {problem.decode()}")


def translate(source: str) -> str:
    """C++ of the kernels and device functions, without the head that TVM puts before them."""
    starts = [source.find(mark) for mark in ("__forceinline__ __device__ void qc_", 'extern "C"')]
    starts.append(source.find("__forceinline__ __device__ int qc_"))
    text = source[min(start for start in starts if start >= 0) :]
    text = ASSEMBLY.sub(lambda m: instruction(m[1], m[2], m[3]), text)
    offset = 0

    def place(match: re.Match) -> str:
        nonlocal offset
        alignment, kind, name, count = int(match[1]), match[2], match[3], int(match[4])
        start = -(-offset // alignment) * alignment
        offset = start + SIZES[kind] * count
        return f'auto {name} = emulator::shared<{kind}>({start}, {count}, "{name}");'

    parts = re.split(r'(?=extern "C" __global__)', text)
    done = []
    for part in parts:
        offset = 0
        done.append(_kernel(SHARED.sub(place, part), offset))
    return "".join(done)


def instruction(text: str, outputs: str, inputs: str) -> str:
    """The call that executes one line of inline assembly as its text says.

    >>> instruction("dp4a.u32.s32 %0, %1, %2, %3;", '"=r"(d)', '"r"(a), "r"(b), "r"(c)')
    'emulator::dp4a(0, 1, d, a, b, c);'
    """
    operands = OPERAND.findall(outputs) + OPERAND.findall(inputs)
    name, _, places = text.strip().partition(" ")
    values = ", ".join(operands[int(i)] for i in re.findall(r"%(\d+)", places))
    if match := MMA.fullmatch(name):
        depth, sign_a, bits_a, sign_b, bits_b = match.groups()
        if bits_a == bits_b and int(depth) * int(bits_a) == 128:
            signs = f"{int(sign_a == 's')}, {int(sign_b == 's')}"
            return f"emulator::mma({depth}, {bits_a}, {signs}, {values});"
    if match := DP4A.fullmatch(name):
        return f"emulator::dp4a({int(match[1] == 's')}, {int(match[2] == 's')}, {values});"
    raise EmulationError(f"no meaning is known for the instruction {text!r}")


def _kernel(text: str, shared_bytes: int) -> str:
    """A kernel with checked pointers, and the C function that launches it."""
    match = KERNEL.match(text)
    if match is None or match[4] == ";":
        return "" if match else text
    threads, name = int(match[1]), match[2]
    pairs = PARAMETER.findall(match[3])
    signature = ", ".join(f"emulator::Checked<{kind}> {n}" for kind, n in pairs)
    arguments = ", ".join(
        f'emulator::Checked<{kind}>{{({kind}*)arrays[{i}], sizes[{i}] / {SIZES[kind]}, 0, "{n}"}}'
        for i, (kind, n) in enumerate(pairs)
    )
    return f"""
static void {name}({signature}) {{{text[match.end() :]}
extern "C" const char* emulate_{name}(void** given, const int64_t* given_sizes, const int* grid,
                                      int threads, int is_backward, int only) {{
  static void** arrays;
  static const int64_t* sizes;
  arrays = given;
  sizes = given_sizes;
  if (threads > {threads}) return "more threads than __launch_bounds__ allows";
  return emulator::launch([] {{ {name}({arguments}); }}, grid, threads, {shared_bytes},
                          is_backward, only);
}}
"""
