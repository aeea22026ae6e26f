# SPDX-License-Identifier: Apache-2.0
"""Runs a compiled integer-only network with NumPy and the libraries beside it; nothing else.

    python run.py input.npy output.npy          the model's floats
    python run.py --raw input.npy output.npy    its integers

This file is copied into every artifact, and qcompile itself runs libraries with it. It calls TVM's
runtime through the C ABI of tvm-ffi (c_api.h of 0.1.14), so that no package of TVM is needed.
A library is code: run only one that you or someone you trust built.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NONE, INT, POINTER, KIND, DEVICE, STRING, FIRST_OBJECT = 0, 1, 4, 5, 6, 8, 64
HEADER_BYTES = 24  # of an object: counts, type, deleter
DEVICES = {"cpu": 1, "cuda": 2}  # of DLPack
KINDS = {"uint8": (1, 8), "int8": (0, 8), "int32": (0, 32)}  # DLPack: unsigned 1, signed 0
POOLED = 2  # the virtual machine keeps freed arrays
CPUINFO = Path("/proc/cpuinfo")


class RunError(RuntimeError):
    """What the machine or the input lacks, in one line."""


class Any(ctypes.Structure):
    """TVMFFIAny: a value, or a counted reference to an object."""

    _fields_ = [("type", ctypes.c_int32), ("padding", ctypes.c_uint32), ("bits", ctypes.c_uint64)]


class Text(ctypes.Structure):
    """TVMFFIByteArray."""

    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


class Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("rank", ctypes.c_int32),
        ("kind", ctypes.c_uint8 * 2),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
    ]


def loaded(name: str) -> str | None:
    """The path of a library of that name that this process has mapped, or None."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return None
    for line in maps.read_text().splitlines():
        path = line.partition("/")[2]
        if path.rpartition("/")[2] == name:
            return "/" + path
    return None


class Runtime:
    """TVM's runtime: functions by name, called with Python values."""

    def __init__(self, libraries: Sequence[Path]) -> None:
        # Else the pool of threads pins the one that calls, and all that it starts later, to a core.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        # Two copies of one library would each have half of the functions: the first one serves.
        for path in libraries:
            name = Path(path).name
            try:
                library = ctypes.CDLL(loaded(name) or str(path), ctypes.RTLD_GLOBAL)
            except OSError as problem:
                raise RunError(f"{problem} ({name} is part of what runs the network)") from None
            if name == "libtvm_ffi.so":
                self.ffi = library

    def function(self, name: str) -> Object:
        """A global function."""
        text, handle = name.encode(), ctypes.c_void_p()
        if self.ffi.TVMFFIFunctionGetGlobal(
            ctypes.byref(Text(text, len(text))), ctypes.byref(handle)
        ):
            raise RunError(self._error())
        if not handle.value:
            raise RunError(f"TVM's runtime has no function {name}")
        return Object(self, handle.value)

    def call(self, function: Object, *values: typing.Any) -> typing.Any:
        """The result: an int, None or an Object."""
        arguments = (Any * max(len(values), 1))(*(self._any(value) for value in values))
        result = Any()
        if self.ffi.TVMFFIFunctionCall(
            ctypes.c_void_p(function.handle), arguments, len(values), ctypes.byref(result)
        ):
            raise RunError(self._error())
        if result.type >= FIRST_OBJECT:
            return Object(self, result.bits)
        return None if result.type == NONE else result.bits

    def _any(self, value: typing.Any) -> Any:
        if value is None:
            return Any(NONE, 0, 0)
        if isinstance(value, Object):
            head = ctypes.cast(value.handle + 8, ctypes.POINTER(ctypes.c_int32))
            return Any(head[0], 0, value.handle)
        if isinstance(value, bytes):
            return Any(STRING, 0, ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p).value)
        if isinstance(value, ctypes.c_void_p):
            return Any(POINTER, 0, value.value or 0)
        if isinstance(value, Any):
            return value
        return Any(INT, 0, value & (2**64 - 1))

    def _error(self) -> str:
        handle = ctypes.c_void_p()
        self.ffi.TVMFFIErrorMoveFromRaised(ctypes.byref(handle))
        if not handle.value:
            return "TVM's runtime failed and does not say why"
        error = Object(self, handle.value)
        _, message = ctypes.cast(error.handle + HEADER_BYTES, ctypes.POINTER(Text))[0:2]
        return ctypes.string_at(message.data, message.size).decode(errors="replace").strip()


class Object:
    """A reference that counts."""

    def __init__(self, runtime: Runtime, handle: int) -> None:
        self.runtime, self.handle = runtime, handle

    def __del__(self) -> None:
        self.runtime.ffi.TVMFFIObjectDecRef(ctypes.c_void_p(self.handle))


class Library:
    """One loaded library; run(codes) gives what its `main` gives."""

    def __init__(self, path: Path, libraries: Sequence[Path], device: str = "cpu") -> None:
        self.runtime = Runtime(libraries)
        get, call = self.runtime.function, self.runtime.call
        self.device, self.alloc = DEVICES[device], get("runtime.TVMTensorAllocWithScope")
        self.shape = get("ffi.Shape")
        self.to, self.back = (get(f"runtime.TVMTensorCopy{way}Bytes") for way in ("From", "To"))
        module = call(get("ffi.ModuleLoadFromFile"), str(Path(path).resolve()).encode())
        part = get("ffi.ModuleGetFunction")
        load = call(part, module, b"vm_load_executable", 0)
        self.machine = call(load)
        cpu = (DEVICES["cpu"], 0, POOLED)
        placed = cpu if device == "cpu" else (self.device, 0, POOLED, *cpu)
        call(call(part, self.machine, b"vm_initialization", 0), *placed)
        self.main = call(part, self.machine, b"main", 0)

    def set_threads(self, count: int) -> None:
        """So many threads for all libraries of the process."""
        any_core = 1
        self.runtime.call(self.runtime.function("runtime.config_threadpool"), any_core, count)

    def run(self, codes: np.ndarray) -> np.ndarray:
        """Codes [batch, H, W, C] of the type that the library takes; a wrong shape is an error."""
        call, data = self.runtime.call, np.ascontiguousarray(codes)
        if data.dtype.name not in KINDS:
            raise RunError(f"codes are {', '.join(KINDS)}, not {data.dtype}")
        code, bits = KINDS[data.dtype.name]
        kind, device = Any(KIND, 0, code | bits << 8 | 1 << 16), Any(DEVICE, 0, self.device)
        x = call(self.alloc, call(self.shape, *data.shape), kind, device, None)
        call(self.to, x, ctypes.c_void_p(data.ctypes.data), data.nbytes)
        y = call(self.main, x)
        found = ctypes.cast(y.handle + HEADER_BYTES, ctypes.POINTER(Tensor))[0]
        names = {kind: name for name, kind in KINDS.items()}
        result = np.empty(found.shape[: found.rank], names[tuple(found.kind)])
        call(self.back, y, ctypes.c_void_p(result.ctypes.data), result.nbytes)
        return result


class Network:
    """The network of an artifact: floats in, floats out, for any number of samples."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        facts = json.loads(text)["content"]["network"]
        self.facts, self.batch = facts, facts["batch"]
        self.input, self.output = facts["input"], facts["output"]
        missing = sorted(set(facts["instructions"]) - instructions())
        if missing:
            raise RunError(
                f"the library was compiled for processors with {', '.join(missing)}, which this "
                "one lacks: compile the model on this machine"
            )
        try:
            libraries = [folder / name for name in facts["runtime"]]
            self.library = Library(folder / facts["library"], libraries, facts["device"])
        except RunError as problem:
            if facts["device"] == "cpu":
                raise
            raise RunError(
                f"{problem}: a GPU of compute capability 7.5 or later and a driver of "
                f"{facts['minimum_driver']} or later are needed"
            ) from None

    def run(self, x: np.ndarray, raw: bool = False) -> np.ndarray:
        """Floats [n, …] to the model's floats [n, …], or with raw to its integers."""
        return finish(self.integers(quantize(x, self.input)), self.output, raw)

    def integers(self, codes: np.ndarray) -> np.ndarray:
        """Codes [n, H, W, C] to integers [n, H, W, C]; the last call is filled up."""
        count, parts = len(codes), []
        for start in range(0, count, self.batch):
            part = codes[start : start + self.batch]
            extra = np.zeros((self.batch - len(part), *codes.shape[1:]), codes.dtype)
            parts.append(self.library.run(np.concatenate([part, extra]))[: len(part)])
        return np.concatenate(parts) if parts else self.empty()

    def empty(self) -> np.ndarray:
        """No sample."""
        return np.zeros((0, *self.output["map"]), self.output["kind"])


def quantize(x: np.ndarray, border: dict[str, typing.Any]) -> np.ndarray:
    """Floats [n, dims] to codes [n, H, W, C]: clamp(rint(x / scale) + zero point), NaN is zero."""
    x, dims = np.asarray(x), border["dims"]
    if x.dtype != np.float32 or list(x.shape[1:]) != dims or x.ndim != len(dims) + 1:
        shape = ", ".join(str(size) for size in ["n", *dims])
        raise RunError(f"{border['name']} is float32 [{shape}], not {x.dtype} {list(x.shape)}")
    with np.errstate(over="ignore", invalid="ignore"):  # far beyond the range is its end
        steps = np.nan_to_num(np.rint(x / np.float32(border["scale"])), nan=0)
    low, high = border["limits"]
    codes = np.clip(steps + np.float32(border["zero_point"]), low, high).astype(border["kind"])
    order = border["order"]
    turned = codes.transpose(0, *(1 + i for i in np.argsort(order)))
    return np.ascontiguousarray(turned).reshape(len(x), *border["map"])


def finish(integers: np.ndarray, border: dict[str, typing.Any], raw: bool = False) -> np.ndarray:
    """Integers [n, H, W, C] of the last node to the model's floats [n, dims]."""
    turned = integers.transpose(0, *(1 + axis for axis in whole_order(border["order"])))
    y = turned.reshape(len(integers), *border["dims"])
    if raw:
        return y
    centred = y.astype(np.int32) - np.int32(border["zero_point"])
    return centred.astype(np.float32) * np.float32(border["scale"])


def whole_order(order: Sequence[int]) -> list[int]:
    """The axes of a map in an order; those of one element that it leaves out come last."""
    return [*order, *(axis for axis in range(3) if axis not in order)]


def instructions() -> set[str]:
    """The instruction sets that Linux says this processor has."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    return {w for line in lines if line.startswith("flags") for w in line.split(":")[1].split()}


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    raw = "--raw" in arguments
    paths = [Path(word) for word in arguments if word != "--raw"]
    if len(paths) != 2:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    try:
        network = Network(Path(__file__).resolve().parent)
        np.save(paths[1], network.run(np.load(paths[0], allow_pickle=False), raw))
    except (OSError, ValueError, RunError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
