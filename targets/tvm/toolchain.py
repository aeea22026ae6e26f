# SPDX-License-Identifier: Apache-2.0
"""What the TVM targets need beside Python, and what to do where it is missing."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from qcompile.errors import UnsupportedError

CUDA_RUNTIME = "libcudart.so.13"


def require_tvm() -> None:
    """UnsupportedError where TVM cannot be imported."""
    for name in ("tvm", "tvm_ffi"):
        if importlib.util.find_spec(name) is None:
            raise UnsupportedError(
                f"TVM targets need the Python package {name}: pip install 'qcompile[tvm]'"
            )


def runtime_libraries(device: str) -> list[Path]:
    """What runs a library on "cpu" or "cuda", in the order of loading: parts of TVM's packages."""
    require_tvm()
    wanted = [("tvm_ffi", "libtvm_ffi.so"), ("tvm", "libtvm_runtime.so")]
    wanted += [("tvm", "libtvm_runtime_cuda.so")] * (device == "cuda")
    found = []
    for package, name in wanted:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        found.append(Path(spec.submodule_search_locations[0], "lib", name))
    return found if device == "cpu" else [cuda_runtime(), *found]


def cuda_runtime() -> Path:
    """libcudart.so.13, which lies beside nvcc; UnsupportedError where it does not."""
    home = Path(nvcc()).resolve().parents[1]
    for folder in ("/usr/local/cuda", "/usr/local/cuda-13.0"):
        found = [p for root in (home, Path(folder)) for p in root.glob(f"**/{CUDA_RUNTIME}")]
        if found:
            return found[0]
    raise UnsupportedError(
        f"target t4 needs {CUDA_RUNTIME} of CUDA 13 beside nvcc ({home}): install the CUDA runtime"
    )


def has_gpu() -> bool:
    """Whether a driver of NVIDIA's finds a GPU."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):  # no driver, or the empty one that stands in for it
        return False
    return bool(found and count.value > 0)


def nvcc() -> str:
    """The path of nvcc; UnsupportedError where there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home, "bin")))
    if found is None:
        raise UnsupportedError(
            "target t4 needs nvcc of CUDA 13 on PATH or in CUDA_HOME/bin; it needs no GPU: "
            "https://developer.nvidia.com/cuda-downloads"
        )
    return found


def compiler() -> str:
    """The path of a C++ compiler; UnsupportedError where there is none."""
    wanted = os.environ.get("CXX")
    for name in (wanted, "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return str(shutil.which(name))
    raise UnsupportedError("TVM targets need a C++ compiler: apt-get install g++, or set CXX")


def run(command: list[str]) -> str:
    """stdout and stderr of a command; RuntimeError with its last lines where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        tail = "\n".join(output.splitlines()[-20:])
        raise RuntimeError(f"{Path(command[0]).name} failed ({done.returncode}):\n{tail}")
    return output
