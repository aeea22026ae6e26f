# SPDX-License-Identifier: Apache-2.0
"""Runs every kernel of a bundle, and the whole network, on an NVIDIA GPU, and times them.

    python gpu_check.py [FOLDER] [--json FILE]

It needs Python, NumPy and the driver, nothing else. benchmarks.t4_bundle writes the folder: the
artifact, the inputs and the integers of the reference for each kernel. The driver compiles the PTX
for whatever GPU there is, from compute capability 7.5 on. Where PyTorch with CUDA is installed, the
int8 matrix product of cuBLAS and the float16 convolution of cuDNN of the same sizes are timed, too.
A bundle holds code: run only one that you or someone you trust built.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

CAPABILITY = (7, 5)
ROUNDS, LAUNCHES = 7, 20  # the least mean of so many rounds
FILL = 0x55  # an array that a kernel does not write stays wrong
MAJOR, MINOR = 75, 76  # attributes of a device


class CheckError(RuntimeError):
    """What the machine or the folder lacks, in one line."""


class Driver:
    """The CUDA driver, libcuda.so.1: memory, kernels by name, and times."""

    def __init__(self, ptx: bytes) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise CheckError("there is no libcuda.so.1: install NVIDIA's driver") from None
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        self._call("cuDeviceGetName", name, len(name), device)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.name, self.version = name.value.decode(), version.value
        parts = (ctypes.c_int(), ctypes.c_int())
        for part, attribute in zip(parts, (MAJOR, MINOR), strict=True):
            self._call("cuDeviceGetAttribute", ctypes.byref(part), attribute, device)
        self.capability = (parts[0].value, parts[1].value)
        if self.capability < CAPABILITY:
            raise CheckError(f"{self.name} has compute capability {self.capability}; 7.5 is needed")
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self._module), ctypes.c_char_p(ptx))
        self._events = [ctypes.c_void_p() for _ in range(2)]
        for event in self._events:
            self._call("cuEventCreate", ctypes.byref(event), 0)

    def put(self, array: np.ndarray) -> ctypes.c_uint64:
        """A copy on the GPU."""
        data, pointer = np.ascontiguousarray(array), ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(data.nbytes, 1)))
        host = ctypes.c_void_p(data.ctypes.data)
        self._call("cuMemcpyHtoD_v2", pointer, host, ctypes.c_size_t(data.nbytes))
        return pointer

    def get(self, pointer: ctypes.c_uint64, shape: Sequence[int], kind: str) -> np.ndarray:
        """The array there."""
        found = np.empty(shape, kind)
        host = ctypes.c_void_p(found.ctypes.data)
        self._call("cuMemcpyDtoH_v2", host, pointer, ctypes.c_size_t(found.nbytes))
        return found

    def free(self, pointer: ctypes.c_uint64) -> None:
        """Gives the memory back."""
        self._call("cuMemFree_v2", pointer)

    def launch(
        self, kernel: str, grid: Sequence[int], threads: int, pointers: Sequence[ctypes.c_uint64]
    ) -> None:
        """One kernel; it may still run when this returns."""
        function = ctypes.c_void_p()
        name = ctypes.c_char_p(kernel.encode())
        self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name)
        values = (ctypes.c_void_p * len(pointers))(
            *(ctypes.cast(ctypes.byref(p), ctypes.c_void_p) for p in pointers)
        )
        self._call("cuLaunchKernel", function, *grid, threads, 1, 1, 0, None, values, None)

    def seconds(self, work: Callable[[], None]) -> float:
        """Of the GPU, from before the work to its end."""
        start, end = self._events
        self._call("cuEventRecord", start, None)
        work()
        self._call("cuEventRecord", end, None)
        self._call("cuEventSynchronize", end)
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return milliseconds.value / 1000

    def _call(self, name: str, *values: typing.Any) -> None:
        status = getattr(self._cuda, name)(*values)
        if status:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorName(status, ctypes.byref(text))
            raise CheckError(f"{name} fails: {(text.value or b'?').decode()} ({status})")


class Bundle:
    """Kernels in order, the arrays that they read, and what they have to make."""

    def __init__(self, folder: Path) -> None:
        try:
            facts = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
            with np.load(folder / "arrays.npz", allow_pickle=False) as held:
                self.arrays = {name: held[name] for name in held.files}
        except (OSError, ValueError) as problem:
            raise CheckError(f"{folder} is no bundle: {problem}") from None
        self.steps: list[dict[str, typing.Any]] = facts["steps"]
        self.output = str(facts["output"])

    def wrong(self, name: str, found: np.ndarray) -> int:
        """Words that differ from the reference; what fills up the last one means nothing."""
        mask = self.arrays.get(f"mask of {name}")
        apart = found ^ self.arrays[name]
        return int(np.count_nonzero(apart if mask is None else apart & mask))


def check_kernels(bundle: Bundle, driver: typing.Any) -> list[dict[str, typing.Any]]:
    """Each kernel by itself, on the reference's arrays: wrong words, and its time."""
    rows = []
    for step in bundle.steps:
        given = {n: driver.put(_array(bundle, step, n)) for n in step["parameters"]}
        pointers = [given[name] for name in step["parameters"]]

        def launch(step: dict = step, pointers: list = pointers) -> None:
            driver.launch(step["kernel"], step["grid"], step["threads"], pointers)

        launch()
        found = driver.get(given[step["output"]], step["shape"], step["kind"])
        seconds = least(driver, launch)
        for pointer in pointers:
            driver.free(pointer)
        row = {"kernel": step["kernel"], "wrong": bundle.wrong(step["output"], found)}
        row |= {"microseconds": seconds * 1e6, **step["work"]}
        rows.append(row)
    return rows


def _array(bundle: Bundle, step: dict[str, typing.Any], name: str) -> np.ndarray:
    if name != step["output"]:
        return bundle.arrays[name]
    return np.full(step["shape"], FILL, step["kind"])


def check_whole(bundle: Bundle, driver: typing.Any) -> dict[str, typing.Any]:
    """All kernels in order, from the input alone."""
    made = {step["output"] for step in bundle.steps}
    read = {n for step in bundle.steps for n in step["parameters"]} - made
    held = {name: driver.put(bundle.arrays[name]) for name in read}
    for step in bundle.steps:
        held[step["output"]] = driver.put(_array(bundle, step, step["output"]))

    def launch() -> None:
        for step in bundle.steps:
            pointers = [held[name] for name in step["parameters"]]
            driver.launch(step["kernel"], step["grid"], step["threads"], pointers)

    launch()
    last = next(step for step in bundle.steps if step["output"] == bundle.output)
    found = driver.get(held[bundle.output], last["shape"], last["kind"])
    seconds = least(driver, launch)
    for pointer in held.values():
        driver.free(pointer)
    return {"wrong": bundle.wrong(bundle.output, found), "microseconds": seconds * 1e6}


def least(driver: typing.Any, launch: Callable[[], None]) -> float:
    """Seconds of one launch: the least mean of some rounds."""

    def many() -> None:
        for _ in range(LAUNCHES):
            launch()

    many()
    return min(driver.seconds(many) for _ in range(ROUNDS)) / LAUNCHES


def check_library(folder: Path) -> int:
    """Integers that the artifact's own library and run.py give wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary) / "result.npy"
        files = [str(folder / "input.npy"), str(result)]
        command = [sys.executable, str(folder / "artifact" / "run.py"), "--raw", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckError(f"run.py of the artifact: {done.stderr.strip()}")
        found, expected = np.load(result), np.load(folder / "expected.npy")
    return int(np.count_nonzero(found != expected))


def peer_times(steps: Sequence[dict[str, typing.Any]]) -> dict[str, dict[str, float]]:
    """Microseconds of cuBLAS int8 and cuDNN float16 by kernel; empty without PyTorch and CUDA."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def time(work: Callable[[], object]) -> float:
        work()
        rounds = []
        for _ in range(ROUNDS):
            start.record()
            for _ in range(LAUNCHES):
                work()
            end.record()
            end.synchronize()
            rounds.append(start.elapsed_time(end) * 1000 / LAUNCHES)
        return min(rounds)

    found: dict[str, dict[str, float]] = {}
    for step in steps:
        size = step["work"].get("conv")
        if size is None:
            continue
        M, N, K = size["M"], size["N"], size["K"]
        # cuBLAS takes multiples of 8, and more than 16 rows.
        a = torch.ones(max(-(-M // 8) * 8, 24), -(-K // 8) * 8, dtype=torch.int8, device="cuda")
        b = torch.ones(-(-N // 8) * 8, a.shape[1], dtype=torch.int8, device="cuda")
        x = torch.ones(size["x"], dtype=torch.half, device="cuda")
        w = torch.ones(size["weight"], dtype=torch.half, device="cuda")
        x, w = (t.to(memory_format=torch.channels_last) for t in (x, w))
        strides, pads = size["strides"], size["pads"]
        found[step["kernel"]] = {
            "cublas_int8": time(lambda a=a, b=b: torch._int_mm(a, b.t())),
            "cudnn_float16": time(
                lambda x=x, w=w, s=strides, p=pads: torch.nn.functional.conv2d(
                    x, w, stride=s, padding=p
                )
            ),
        }
    return found


def report(facts: dict[str, typing.Any]) -> str:
    """What was found, for people."""
    lines = [f"{facts['gpu']}, compute capability {facts['capability']}, driver {facts['driver']}"]
    for row in facts["kernels"]:
        tera = row["operations"] / row["microseconds"] / 1e6
        line = f"{row['kernel']:32} {row['wrong']:8} wrong {row['microseconds']:10.1f} µs"
        line += f" {tera:7.2f} TOP/s" if row["operations"] else ""
        peers = facts["peers"].get(row["kernel"], {})
        lines.append(line + "".join(f"  {name} {us:.1f} µs" for name, us in peers.items()))
    whole = facts["whole"]
    lines.append(
        f"whole network: {whole['wrong']} wrong, {whole['microseconds']:.1f} µs of kernels"
    )
    lines.append(f"run.py of the artifact: {facts['library_wrong']} wrong")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command line; 1 where an integer is wrong."""
    words = list(arguments)
    target = Path(words.pop(words.index("--json") + 1)) if "--json" in words[:-1] else None
    words = [word for word in words if word != "--json"]
    folder = Path(words[0]) if words else Path(__file__).resolve().parent
    try:
        bundle = Bundle(folder)
        driver = Driver((folder / "kernels.ptx").read_bytes() + b"\0")
        kernels, whole = check_kernels(bundle, driver), check_whole(bundle, driver)
        facts = {
            "gpu": driver.name,
            "capability": ".".join(map(str, driver.capability)),
            "driver": driver.version,
            "kernels": kernels,
            "whole": whole,
            "library_wrong": check_library(folder),
            "peers": peer_times(bundle.steps),
        }
    except (OSError, CheckError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(report(facts))
    if target is not None:
        target.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return int(any(row["wrong"] for row in (*kernels, whole)) or facts["library_wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
