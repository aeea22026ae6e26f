# SPDX-License-Identifier: Apache-2.0
"""The custom-op library of ONNX Runtime (domain com.qcompile): its place, its list, its use."""

import functools
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

from qcompile.errors import UnsupportedError

DOMAIN = "com.qcompile"
ABI = 1
LAYOUT_VERSIONS = ("n16k4/1", "n16k4s/1", "n16k4q/1", "n16k4p/1", "n16k4c/1", "kc/1", "rows/1")
MINIMUM_ORT = (1, 17)
LIBRARY = "libqcompile_ops.so"
ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni", "avx512vbmi2", "dotprod", "i8mm")

_registered: "weakref.WeakKeyDictionary[Any, None]" = weakref.WeakKeyDictionary()


def is_available() -> bool:
    """Whether this installation has the op library."""
    return any((Path(directory) / LIBRARY).is_file() for directory in __path__)


def library_path() -> Path:
    """The op library of this installation; an editable one has it away from the sources."""
    for directory in __path__:
        path = Path(directory) / LIBRARY
        if path.is_file():
            return path
    raise UnsupportedError(
        f"{LIBRARY} is not in {' or '.join(map(str, __path__))}: target cpu needs the op library. "
        f"Install qcompile again on Linux with a C++ compiler (pip install .), "
        f"or choose --target ort or web."
    )


def kernels() -> list[tuple[str, str]]:
    """(kernel, isa) of every line of kernels.inc, in its order."""
    for directory in __path__:
        path = Path(directory) / "kernels" / "kernels.inc"
        if path.is_file():
            return re.findall(r"^QC_KERNEL\((\w+), (\w+)\)$", path.read_text(), re.MULTILINE)
    raise UnsupportedError(
        f"kernels/kernels.inc is not in {' or '.join(map(str, __path__))}: "
        f"it lists what the op library holds. Install qcompile again (pip install .)."
    )


def register(session_options: Any) -> None:
    """Register the library on SessionOptions; a second call on the same object does nothing."""
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < MINIMUM_ORT:
        raise UnsupportedError(
            f"onnxruntime {onnxruntime.__version__} does not load the op library: it needs "
            f"{'.'.join(map(str, MINIMUM_ORT))} or later. Install a newer onnxruntime."
        )
    if session_options not in _registered:
        session_options.register_custom_ops_library(str(library_path()))
        _registered[session_options] = None


_PROBE = """
import onnxruntime, sys
try:
    onnxruntime.SessionOptions().register_custom_ops_library(sys.argv[1])
except Exception:
    sys.exit(1)
"""


@functools.cache
def supported_isas() -> tuple[str, ...]:
    """The instruction sets that this processor and this build run, worst first.

    QCOMPILE_ISA chooses one. The library itself is asked, each in a process of its own: a process
    keeps the kernels of its last registration.
    """
    return tuple(
        isa
        for isa in ISAS
        if not subprocess.run(
            [sys.executable, "-c", _PROBE, str(library_path())],
            env={**os.environ, "QCOMPILE_ISA": isa},
            capture_output=True,
        ).returncode
    )
