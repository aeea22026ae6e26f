# SPDX-License-Identifier: Apache-2.0
"""No kernel reads or writes beyond its weight, inputs and outputs: guard pages, sanitizers.

Tests of the operators run again in processes of their own, which a read beyond the end would end.
`make sanitize` builds the library that the tests with AddressSanitizer and UBSan need.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qcompile import runtime_ops
from tests.packaging.source_tree import ROOT
from tests.runtime_ops.guarded import place

HERE = Path(__file__).parent
SANITIZED = ROOT / "build/sanitize/runtime_ops" / runtime_ops.LIBRARY
TESTS = [
    str(HERE / f"test_{name}.py")
    for name in (
        *("products", "denser_codes", "codebooks", "elementwise", "rows", "gather"),
        *("attention", "dynamic_attention", "softmax_formats", "hadamard"),
    )
]
# Scalar kernels read one element at a time, where numerics says; they would take minutes here.
SUPPORTED = pytest.mark.parametrize("isa", [i for i in runtime_ops.ISAS if i != "scalar"])
sanitized = pytest.mark.skipif(not SANITIZED.is_file(), reason="no such library: make sanitize")

# A product, gather, depthwise convolution or table lookup with one input that is a byte too short.
SHORT = """
import sys
import numpy as np
from onnx import TensorProto
from qcompile.formats import get
from qcompile.numerics.conv import Window
from tests.runtime_ops import guarded, products
from tests.runtime_ops import single_op as one

kind, rows, short = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
weight = one.random_weight(rng, 64, 96, get("uint4"), 0, "none")
given = one.weight_attributes(weight) | products.SCALED
x, bias = np.zeros((rows, 96), np.uint8), np.zeros(64, np.int32)
inputs, op = [x, one.pack(weight), bias, np.ones(64, np.float32)], "QMatMul"
if kind == "depthwise":
    weight, window = one.random_weight(rng, 64, 9, get("int8"), 0, "none"), Window((3, 3))
    given = one.weight_attributes(weight, "kc/1") | one.window_attributes(window, 64)
    inputs[:2], op = [np.zeros((1, 5, 5, 64), np.uint8), one.pack(weight, "kc/1")], "QConv"
    given |= products.SCALED
if kind == "lut":
    inputs, given, op = [x, np.zeros(256, np.uint8)], {}, "QLut"
out = TensorProto.UINT8 if op == "QLut" else TensorProto.FLOAT
chosen = (short,) if short >= 0 else ()
guarded.run_once(op, inputs, given, [(out, inputs[0].ndim)], (0,), 1, True, chosen)
print("all read")
"""


def in_process(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def of_compiler(name: str) -> str:
    """A library that belongs to the compiler, which has to be loaded before all others."""
    compiler = shutil.which("g++") or pytest.skip("no g++ to ask for its libraries")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return os.path.realpath(found.stdout.strip())


def sanitizing() -> dict[str, str]:
    """The environment of a process with the sanitized library.

    Python leaks on purpose. Without its own allocator every tensor of Python is a block that
    AddressSanitizer knows; libstdc++ is loaded first so that exceptions of ONNX Runtime pass it.
    """
    return {
        "LD_PRELOAD": f"{of_compiler('libasan.so')} {of_compiler('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:"
        "max_allocation_size_mb=4096:handle_segv=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
        "QC_LIBRARY": str(SANITIZED),
    }


def test_the_guard_is_where_the_tensor_ends():
    x = np.arange(5000, dtype=np.int32)
    for at_end in (False, True):
        placed = place(x, at_end)
        np.testing.assert_array_equal(placed, x)
        edge = placed.ctypes.data + (placed.nbytes if at_end else 0)
        assert edge % 4096 == 0
        read = f"import ctypes; from tests.runtime_ops.guarded import place; import numpy as np; \
x = place(np.arange(5000, dtype=np.int32), {at_end}); \
ctypes.string_at(x.ctypes.data + {x.nbytes if at_end else -1}, 1)"
        assert in_process(["-c", read]).returncode < 0


@pytest.mark.slow
@SUPPORTED
def test_nothing_is_read_beyond_the_tensors(isa):
    if isa not in runtime_ops.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    plugin = [
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.runtime_ops.guarded",
    ]
    done = in_process([*plugin, *TESTS], QCOMPILE_ISA=isa)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind,rows,short",
    [
        *(("product", 1, i) for i in (0, 1, 2, 3)),
        *(("product", 20, i) for i in (0, 1)),
        *(("depthwise", 1, i) for i in (0, 1, 2)),
        ("lut", 1, 1),
    ],
)
def test_a_short_tensor_ends_the_process(kind, rows, short):
    """The guard sees one byte: the same node runs with whole tensors."""
    whole = in_process(["-c", SHORT, kind, str(rows), "-1"])
    assert whole.stdout == "all read\n", whole.stderr[-2000:]
    done = in_process(["-c", SHORT, kind, str(rows), str(short)])
    assert done.returncode < 0
    assert "all read" not in done.stdout


@pytest.mark.slow
@sanitized
@SUPPORTED
def test_sanitizers_find_nothing(isa):
    if isa not in runtime_ops.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    plugin = ["-p", "no:cacheprovider", "-p", "tests.runtime_ops.other_library"]
    files = [*TESTS, str(HERE / "test_refusals.py")]
    done = in_process(
        ["-m", "pytest", "-q", "-x", *plugin, *files], QCOMPILE_ISA=isa, **sanitizing()
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


READ_BEYOND = """
import ctypes, os, sys
import numpy as np
import onnxruntime as ort
from onnx import TensorProto
from tests.runtime_ops import other_library, single_op as one
other_library.pytest_configure()
x = np.zeros(5000, np.uint8)
model = one.build("QLut", [x, np.zeros(256, np.uint8)], {}, [(TensorProto.UINT8, 1)])
opened = one.session(model)
memory = ctypes.CDLL(None).malloc
memory.restype = ctypes.c_void_p
block = memory(5000 - int(sys.argv[1]))
claimed = np.ctypeslib.as_array((ctypes.c_uint8 * 5000).from_address(block))
opened.run_with_ort_values(None, {"input_0": ort.OrtValue.ortvalue_from_numpy(claimed)})
print("all read")
"""


@pytest.mark.slow
@sanitized
def test_the_sanitizer_sees_a_read_of_one_byte_beyond():
    assert in_process(["-c", READ_BEYOND, "0"], **sanitizing()).stdout == "all read\n"
    done = in_process(["-c", READ_BEYOND, "1"], **sanitizing())
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "lut_u8" in done.stderr


@pytest.mark.slow
@sanitized
def test_undefined_behaviour_ends_the_process():
    """Every check of UBSan in the library is of the kind that does not return."""
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", str(SANITIZED)], capture_output=True, text=True, check=True
    )
    checks = {line.split()[-1] for line in done.stdout.splitlines() if "__ubsan_handle" in line}
    assert {
        "__ubsan_handle_add_overflow_abort",
        "__ubsan_handle_shift_out_of_bounds_abort",
    } <= checks
    assert all("_abort" in name or "unreachable" in name for name in checks), checks
