# SPDX-License-Identifier: Apache-2.0
"""Runs a compiled library with TVM's runtime alone: no compiler is loaded, on a CPU or a GPU.

A library is code: run only one that you built.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError, UnsupportedError
from qcompile.targets.tvm.toolchain import require_tvm

DEVICES = {"cpu": 1, "cuda": 2}  # DLPack's device types
POOLED = 2  # the virtual machine keeps freed arrays


class Runner:
    """One loaded library; run(codes) gives the output of its `main`."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        require_tvm()
        import tvm_ffi

        if not path.is_file():
            raise InputError(f"{path}: there is no such library")
        self._ffi, self._device = tvm_ffi, tvm_ffi.device(device)
        _load_runtime(device)
        self._machine = tvm_ffi.load_module(str(path.resolve()))["vm_load_executable"]()
        cpu = (DEVICES["cpu"], 0, POOLED)
        placed = cpu if device == "cpu" else (DEVICES[device], 0, POOLED, *cpu)
        self._machine["vm_initialization"](*placed)

    def run(self, codes: NDArray) -> NDArray:
        """Codes [batch, H, W, C] of the type that the library takes; a wrong shape is an error."""
        data = np.ascontiguousarray(codes)
        x = self._array(data.shape, data.dtype.name)
        self._call("CopyFromBytes", x, ctypes.c_void_p(data.ctypes.data), data.nbytes)
        try:
            y = self._machine["main"](x)
        except (ValueError, TypeError, RuntimeError) as problem:
            shape = f"{data.dtype} {list(data.shape)}"
            raise InputError(f"the library does not take {shape}: {problem}") from problem
        result = np.empty(tuple(y.shape), str(y.dtype))
        self._call("CopyToBytes", y, ctypes.c_void_p(result.ctypes.data), result.nbytes)
        return result

    def _array(self, shape: tuple[int, ...], kind: str) -> Any:
        kind_of = self._ffi.dtype(kind)
        return self._call("AllocWithScope", self._ffi.Shape(shape), kind_of, self._device, None)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._ffi.get_global_func(f"runtime.TVMTensor{name}")(*arguments)


@cache
def _load_runtime(device: str) -> None:
    """libtvm_runtime.so, and for a GPU what calls CUDA; both lie in the wheel of TVM."""
    found = importlib.util.find_spec("tvm")
    assert found is not None and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0], "lib")
    names = ["libtvm_runtime.so"] + ["libtvm_runtime_cuda.so"] * (device == "cuda")
    for name in names:
        try:
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
        except OSError as problem:
            raise UnsupportedError(
                f"{problem}: target t4 runs with a driver of 580 or later and CUDA 13's runtime"
            ) from problem
