# SPDX-License-Identifier: Apache-2.0
"""TVM's CUDA runtime on a machine without a GPU: only it writes GPU code into a library.

It links the driver, libcuda.so.1. Where there is none, an empty library takes that name: symbols
are looked up when they are called, and nothing here calls the driver.
"""

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi

from qcompile.targets.tvm.toolchain import compiler, cuda_runtime, run

CREATE = "ffi.Module.create.cuda"
DRIVER = "libcuda.so.1"


@contextmanager
def gpu_code_by(compile_source: Callable[[str], bytes]) -> Iterator[None]:
    """Inside, TVM's CUDA modules hold what compile_source makes of their source: a fatbin."""
    _load()
    create = tvm_ffi.get_global_func(CREATE)

    def with_fatbin(source: bytes, kind: str, functions: Any, sources: Any) -> Any:
        return create(compile_source(bytes(source).decode()), "fatbin", functions, sources)

    tvm_ffi.register_global_func(CREATE, with_fatbin, override=True)
    try:
        yield
    finally:
        tvm_ffi.register_global_func(CREATE, create, override=True)


def is_loaded() -> bool:
    """Whether TVM's CUDA runtime is in this process; on a machine with a GPU it always is."""
    return tvm_ffi.get_global_func(CREATE, allow_missing=True) is not None


def _load() -> None:
    if is_loaded():
        return
    try:
        ctypes.CDLL(DRIVER, ctypes.RTLD_GLOBAL)
    except OSError:
        _load_stand_in()
    ctypes.CDLL(str(cuda_runtime()), ctypes.RTLD_GLOBAL)
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    ctypes.CDLL(str(library), os.RTLD_LAZY | ctypes.RTLD_GLOBAL)


def _load_stand_in() -> None:
    with tempfile.TemporaryDirectory(prefix="qcompile-driver-") as folder:
        source, library = Path(folder, "driver.cc"), Path(folder, DRIVER)
        source.write_text("")
        run([compiler(), "-shared", f"-Wl,-soname,{DRIVER}", str(source), "-o", str(library)])
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
