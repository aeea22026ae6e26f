# SPDX-License-Identifier: Apache-2.0
"""ggml, the kernels of llama.cpp, called through ctypes: one product of a quantized weight.

The libraries are those of the package llama-cpp-python. As in llama.cpp a weight is repacked where
the processor has a kernel for it (`CPU_REPACK`, or AMX), else it stays as it is.
"""

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HANDLE, _TYPE, _COUNT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
# enum ggml_type, whose numbers do not change.
TYPES = {
    "f32": 0,
    "q4_0": 2,
    "q5_0": 6,
    "q8_0": 8,
    "q2_K": 10,
    "q3_K": 11,
    "q4_K": 12,
    "q5_K": 13,
    "q6_K": 14,
    "tq1_0": 34,
    "tq2_0": 35,
    "q1_0": 41,
    "q2_0": 42,
}
_SMALL_BYTES = 1 << 20  # of descriptors, and of the thread pool's parameters


class _Memory(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("size", _SIZE), ("address", _HANDLE), ("is_only_described", ctypes.c_bool))


_BASE = {
    "ggml_version": (ctypes.c_char_p, []),
    "ggml_log_set": (None, [_HANDLE, _HANDLE]),
    "ggml_row_size": (_SIZE, [_TYPE, _COUNT]),
    "ggml_quantize_chunk": (_SIZE, [_TYPE, _HANDLE, _HANDLE, _COUNT, _COUNT, _COUNT, _HANDLE]),
    "ggml_get_type_traits": (_HANDLE, [_TYPE]),
    "ggml_init": (_HANDLE, [_Memory]),
    "ggml_free": (None, [_HANDLE]),
    "ggml_new_tensor_2d": (_HANDLE, [_HANDLE, _TYPE, _COUNT, _COUNT]),
    "ggml_get_data": (_HANDLE, [_HANDLE]),
    "ggml_mul_mat": (_HANDLE, [_HANDLE, _HANDLE, _HANDLE]),
    "ggml_new_graph": (_HANDLE, [_HANDLE]),
    "ggml_build_forward_expand": (None, [_HANDLE, _HANDLE]),
    "ggml_threadpool_params_init": (None, [_HANDLE, ctypes.c_int]),
    "ggml_backend_cpu_buffer_type": (_HANDLE, []),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_HANDLE, [_HANDLE, _HANDLE]),
    "ggml_backend_buffer_free": (None, [_HANDLE]),
    "ggml_backend_tensor_set": (None, [_HANDLE, _HANDLE, _SIZE, _SIZE]),
    "ggml_backend_get_device": (_HANDLE, [_HANDLE]),
    "ggml_backend_dev_backend_reg": (_HANDLE, [_HANDLE]),
    "ggml_backend_reg_get_proc_address": (_HANDLE, [_HANDLE, ctypes.c_char_p]),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, [_HANDLE, _HANDLE]),
    "ggml_backend_graph_plan_create": (_HANDLE, [_HANDLE, _HANDLE]),
    "ggml_backend_graph_plan_compute": (ctypes.c_int, [_HANDLE, _HANDLE]),
    "ggml_backend_graph_plan_free": (None, [_HANDLE, _HANDLE]),
}
_CPU = {
    "ggml_backend_cpu_init": (_HANDLE, []),
    "ggml_backend_cpu_set_n_threads": (None, [_HANDLE, ctypes.c_int]),
    "ggml_backend_cpu_set_threadpool": (None, [_HANDLE, _HANDLE]),
    "ggml_threadpool_new": (_HANDLE, [_HANDLE]),
    "ggml_threadpool_pause": (None, [_HANDLE]),
}


_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _HANDLE)(lambda *_: None)


class _Traits(ctypes.Structure):
    """ggml_type_traits, up to the function that makes floats of a row."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", _COUNT),
        ("interleaved", _COUNT),
        ("block_bytes", _SIZE),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, _HANDLE, _HANDLE, _COUNT)),
    )


def library_folder() -> Path | None:
    """Where the installed package has its libraries; None without them."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    return folder if (folder / "libggml-cpu.so").is_file() else None


class Ggml:
    """The libraries and a backend of so many threads; SystemExit where they are not installed."""

    def __init__(self, threads: int) -> None:
        folder = library_folder()
        if folder is None:
            raise SystemExit("llama_cpp/lib/libggml-cpu.so: not installed (pip install .[llama])")
        self.f: dict[str, ctypes._CFuncPtr] = {}
        for name, declared in (("libggml-base.so", _BASE), ("libggml-cpu.so", _CPU)):
            found = ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
            for function, (result, arguments) in declared.items():
                self.f[function] = getattr(found, function)
                self.f[function].restype, self.f[function].argtypes = result, arguments
        self.backend = self.f["ggml_backend_cpu_init"]()
        self.f["ggml_log_set"](_SILENT, None)  # it tells of every repacked weight
        self.f["ggml_backend_cpu_set_n_threads"](self.backend, threads)
        self.pool = self._pool(threads) if threads > 1 else None

    def _pool(self, threads: int) -> int:
        """Without one every product would start its threads anew."""
        parameters = ctypes.create_string_buffer(_SMALL_BYTES)
        self.f["ggml_threadpool_params_init"](parameters, threads)
        pool = self.f["ggml_threadpool_new"](parameters)
        self.f["ggml_backend_cpu_set_threadpool"](self.backend, pool)
        return pool

    def version(self) -> str:
        """Of ggml."""
        return self.f["ggml_version"]().decode()

    def quantize(self, kind: str, weight: NDArray[np.float32]) -> NDArray[np.uint8]:
        """[N, K] floats → [N, bytes of a row] blocks of the type."""
        n, k = weight.shape
        weight = np.ascontiguousarray(weight)
        rows = np.empty((n, self.f["ggml_row_size"](TYPES[kind], k)), np.uint8)
        self.f["ggml_quantize_chunk"](
            TYPES[kind], weight.ctypes.data, rows.ctypes.data, 0, n, k, None
        )
        return rows

    def dequantize(self, kind: str, rows: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
        """[N, bytes of a row] → the [N, K] floats that the blocks mean."""
        floats = np.empty((len(rows), k), np.float32)
        traits = _Traits.from_address(self.f["ggml_get_type_traits"](TYPES[kind]))
        traits.to_float(rows.ctypes.data, floats.ctypes.data, floats.size)
        return floats

    def buffer_type(self, kind: str, k: int, n: int) -> int:
        """Where llama.cpp would put such a weight: the first that repacks it, else the plain one.

        Whether one does is only known of a weight that lies in it.
        """
        device = self.f["ggml_backend_get_device"](self.backend)
        for buffer_type in self._repacking(device):
            context = self.f["ggml_init"](_Memory(_SMALL_BYTES, None, True))
            weight, buffer = self.allocate(context, kind, k, n, buffer_type)
            x = self.f["ggml_new_tensor_2d"](context, TYPES["f32"], k, 1)
            product = self.f["ggml_mul_mat"](context, weight, x)
            is_supported = self.f["ggml_backend_dev_supports_op"](device, product)
            self.f["ggml_backend_buffer_free"](buffer)
            self.f["ggml_free"](context)
            if is_supported:
                return buffer_type
        return self.f["ggml_backend_cpu_buffer_type"]()

    def is_repacked(self, kind: str, k: int, n: int) -> bool:
        """Whether there is a kernel for another order of its blocks."""
        return self.buffer_type(kind, k, n) != self.f["ggml_backend_cpu_buffer_type"]()

    def _repacking(self, device: int) -> list[int]:
        """The buffer types that change a weight as it is written, the preferred first."""
        registry = self.f["ggml_backend_dev_backend_reg"](device)
        address = self.f["ggml_backend_reg_get_proc_address"](
            registry, b"ggml_backend_dev_get_extra_bufts"
        )
        if not address:
            return []
        listed = ctypes.CFUNCTYPE(ctypes.POINTER(_HANDLE), _HANDLE)(address)(device)
        found: list[int] = []
        while listed[len(found)]:
            found.append(listed[len(found)])
        return found

    def allocate(
        self, context: int, kind: str, k: int, n: int, buffer_type: int
    ) -> tuple[int, int]:
        """A weight without values, and the buffer that holds it."""
        weight = self.f["ggml_new_tensor_2d"](context, TYPES[kind], k, n)
        buffer = self.f["ggml_backend_alloc_ctx_tensors_from_buft"](context, buffer_type)
        if not buffer:
            raise MemoryError(f"ggml: no memory for a weight of {n} x {k} in {kind}")
        return weight, buffer


class Products:
    """y [M, N] = x [M, K] · weightᵀ, `count` times, each with a copy of the weight.

    A call computes all anew; `y` is the last one's.
    """

    def __init__(
        self, ggml: Ggml, kind: str, rows: NDArray[np.uint8], x: NDArray[np.float32], count: int = 1
    ) -> None:
        f, (m, k), n = ggml.f, x.shape, len(rows)
        self._ggml, x = ggml, np.ascontiguousarray(x)
        described = f["ggml_init"](_Memory(_SMALL_BYTES, None, True))
        buffer_type = ggml.buffer_type(kind, k, n)
        held = f["ggml_init"](_Memory(4 * m * (k + count * n) + _SMALL_BYTES, None, False))
        fed = f["ggml_new_tensor_2d"](held, TYPES["f32"], k, m)
        ctypes.memmove(f["ggml_get_data"](fed), x.ctypes.data, x.nbytes)
        graph = f["ggml_new_graph"](held)
        self._buffers = []
        for _ in range(count):
            weight, buffer = ggml.allocate(described, kind, k, n, buffer_type)
            self._buffers.append(buffer)
            f["ggml_backend_tensor_set"](weight, rows.ctypes.data, 0, rows.nbytes)
            product = f["ggml_mul_mat"](held, weight, fed)
            f["ggml_build_forward_expand"](graph, product)
        self._contexts = (described, held)
        self._plan = f["ggml_backend_graph_plan_create"](ggml.backend, graph)
        result = (ctypes.c_float * (m * n)).from_address(f["ggml_get_data"](product))
        self.y = np.ctypeslib.as_array(result).reshape(m, n)

    def __call__(self) -> None:
        """All products; afterwards the threads wait, and take no time from what runs next."""
        f, ggml = self._ggml.f, self._ggml
        if f["ggml_backend_graph_plan_compute"](ggml.backend, self._plan):
            raise RuntimeError("ggml: a product ended with an error")
        if ggml.pool is not None:
            f["ggml_threadpool_pause"](ggml.pool)

    def __del__(self) -> None:
        f = self._ggml.f
        f["ggml_backend_graph_plan_free"](self._ggml.backend, self._plan)
        for buffer in self._buffers:
            f["ggml_backend_buffer_free"](buffer)
        for context in self._contexts:
            f["ggml_free"](context)
