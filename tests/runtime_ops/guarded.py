# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: nodes whose tensors begin, or end, at a page that nothing may touch.

Weights, inputs and outputs lie flush against a guard page, so that a kernel that reads or writes
one byte beyond them ends the process. Each node runs twice, with the page behind and before them.
"""

import ctypes
import mmap

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile import runtime_ops
from tests.runtime_ops import single_op

PAGE = mmap.PAGESIZE
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def place(x: NDArray, at_end: bool, beyond: int = 0) -> NDArray:
    """A copy of x between two guard pages; its last `beyond` elements lie in the page behind."""
    if not x.size:
        return x
    inside = -(-x.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, inside + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    offset = PAGE + (inside - x.nbytes if at_end else 0) + beyond * x.itemsize
    placed = np.frombuffer(memory, x.dtype, x.size, offset).reshape(x.shape)
    if beyond:
        placed.reshape(-1)[:-beyond] = x.reshape(-1)[:-beyond]
    else:
        placed[...] = x
    for guard in (start, start + PAGE + inside):
        if _mprotect(guard, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return placed


def run_once(op, inputs, attributes, outputs, fed, threads, at_end, short=()):
    """The outputs of one node; the last byte of each input in `short` lies in a guard page."""
    model = single_op.build(op, inputs, attributes, outputs, fed)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    runtime_ops.register(options)
    kept = {}  # ONNX Runtime does not keep the memory alive
    for i, x in enumerate(inputs):
        if x is None:
            continue
        placed = place(x, at_end, beyond=int(i in short))
        kept[i] = placed, ort.OrtValue.ortvalue_from_numpy(placed)
        if i not in fed:
            options.add_initializer(f"input_{i}", kept[i][1])
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {f"input_{i}": kept[i][1] for i in fed if i in kept}
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, value)
    results = []
    for i, y in enumerate(session.run_with_ort_values(None, feed)):
        results.append(place(np.zeros_like(y.numpy()), at_end))
        if results[-1].size:
            value = ort.OrtValue.ortvalue_from_numpy(results[-1])
            binding.bind_ortvalue_output(f"output_{i}", value)
        else:
            binding.bind_output(f"output_{i}")
    session.run_with_iobinding(binding)
    return [y.copy() for y in results]


def run(op, inputs, attributes, outputs, fed=(0,), threads=1):
    """As single_op.run, whose place it takes."""
    first, last = (
        run_once(op, inputs, attributes, outputs, fed, threads, at_end) for at_end in (False, True)
    )
    for a, b in zip(first, last, strict=True):
        np.testing.assert_array_equal(a, b)
    return last


def pytest_configure() -> None:
    """Before the tests are imported, and so before one takes the name."""
    single_op.run = run
