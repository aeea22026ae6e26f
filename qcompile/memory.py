# SPDX-License-Identifier: Apache-2.0
"""Budget: how much memory a compilation may take, and whether a model fits; work in row slices."""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import onnx_ir as ir

from qcompile.errors import InputError

In = TypeVar("In")
Out = TypeVar("Out")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", re.IGNORECASE)
# Measured on 3 GB (benchmarks/memory.py): Python with its libraries, ONNX Runtime's buffers and
# slices of weights. On top come the largest tensor in float32, which ORT dequantizes whole.
BASE_BYTES = 320 << 20
LARGE_MODEL_BYTES = 512 << 20  # of weights: above it sessions read them from mapped files
_SLICE_ELEMENTS = 1 << 19  # float64 temporaries of a slice stay near the cache
ROWS_STEP = 64  # every layout can be cut at multiples of it
# glibc has it; Windows has no library of that name to ask.
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def physical_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parse_size(text: str) -> int:
    """Bytes of a size as people write it.

    >>> parse_size("4GB"), parse_size("512MiB")
    (4000000000, 536870912)
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InputError(f'memory "{text}" is no size: write for example 4GB or 512MiB')
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def return_freed() -> None:
    """Give what was freed back to the system.

    glibc keeps pages below the last number that lives: 190 MB between two stages, once.
    """
    if _TRIM is not None:
        _TRIM(0)


@dataclass(frozen=True)
class Budget:
    """Bytes of the process's own memory; pages of mapped files do not count.

    Without a limit of the user's, half of the machine's memory.
    """

    limit_bytes: int = field(default_factory=lambda: physical_bytes() // 2)

    @property
    def is_tight(self) -> bool:
        """Whether less was asked for than half of the machine's memory."""
        return self.limit_bytes < physical_bytes() // 2

    @property
    def kept_bytes(self) -> int:
        """What results may take before they wait in a file."""
        return min(32 << 20, self.limit_bytes // 16)

    @property
    def working_bytes(self) -> int:
        """What one method may take beside weights and sessions: Hessians, recorded values."""
        return max((self.limit_bytes - BASE_BYTES) // 2, 16 << 20)

    def is_large(self, model: ir.Model) -> bool:
        """Whether the float model runs from its file, without ORT's copies of the weights."""
        return weight_bytes(model) > min(LARGE_MODEL_BYTES, self.limit_bytes // 4)

    def check(self, model: ir.Model) -> None:
        """InputError where not even the largest tensor fits."""
        largest = largest_tensor(model)
        need = BASE_BYTES + (0 if largest is None else _decoded_bytes(largest))
        if largest is not None and need > self.limit_bytes:
            raise InputError(
                f"--max-memory {self.limit_bytes / 1e6:.0f} MB is too small: the largest tensor "
                f'"{largest.name}" takes {largest.nbytes / 1e6:.0f} MB, and compiling it needs '
                f"{need / 1e6:.0f} MB: give --max-memory {-(-need // 10**6)}MB or more"
            )


def weight_bytes(model: ir.Model) -> int:
    """Of all initializers, those of subgraphs too."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def largest_tensor(model: ir.Model) -> ir.TensorProtocol | None:
    """By its bytes; None of a model without initializers."""
    return max(_tensors(model), key=lambda t: t.nbytes, default=None)


def _tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (v for graph in model.graphs() for v in graph.initializers.values())
    return [v.const_value for v in values if v.const_value is not None]


def _decoded_bytes(tensor: ir.TensorProtocol) -> int:
    return 4 * tensor.size


def row_slices(n: int, k: int) -> list[slice]:
    """The rows of a weight [N, K] in parts that layouts can be cut at.

    >>> row_slices(200, 1 << 13)
    [slice(0, 64, None), slice(64, 128, None), slice(128, 192, None), slice(192, 200, None)]
    """
    step = max(1, _SLICE_ELEMENTS // max(k, 1) // ROWS_STEP) * ROWS_STEP
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def in_threads(function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
    """The function of every item, in order; NumPy computes without Python's lock."""
    work = list(items)
    workers = min(os.cpu_count() or 1, 8, len(work))
    if workers < 2:
        return [function(item) for item in work]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, work))
