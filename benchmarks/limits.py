# SPDX-License-Identifier: Apache-2.0
"""Probes of the machine's limits, compiled from probes.cc when they are first wanted."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.interleave import Candidate

FLAGS = {
    "avx2": ["-mavx2"],
    "avxvnni": ["-mavx2", "-mavxvnni"],
    "avx512vnni": ["-mavx512f", "-mavx512bw", "-mavx512vnni"],
}
ROTATED_BYTES = 512 << 20
READ_BYTES = 128 << 20  # so long that starting a thread (0.1 ms) is less than 5 % of it


def library(isa: str) -> ctypes.CDLL:
    """The probes for an instruction set of x86-64; SystemExit without a compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if isa not in FLAGS or compiler is None:
        raise SystemExit(f"the probes need a C++ compiler and one of {', '.join(FLAGS)}, not {isa}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "probes.so"
        source = Path(__file__).with_name("probes.cc")
        options = ["-std=c++17", "-O3", "-shared", "-fPIC", "-pthread", *FLAGS[isa]]
        subprocess.run([compiler, *options, source, "-o", out], check=True)
        found = ctypes.CDLL(str(out))
    for function in (found.read_bytes, found.products_a_step, found.multiply_bytes):
        function.restype = ctypes.c_int64
    return found


class Limits:
    """Candidates that take the time of the limit: each probe's own, scaled to the work."""

    def __init__(self, isa: str, threads: int) -> None:
        self._probes, self._threads = library(isa), threads
        self._data = np.ones(ROTATED_BYTES, np.uint8)

    def memory(self, num_bytes: float) -> Candidate:
        """Reading so many bytes from memory."""
        places = range(0, ROTATED_BYTES, READ_BYTES)
        runs = [lambda at=at: self._read(at) for at in places]
        return Candidate("memory", runs, scale=num_bytes / READ_BYTES)

    def _read(self, at: int) -> None:
        address = ctypes.c_void_p(self._data.ctypes.data + at)
        self._probes.read_bytes(address, ctypes.c_int64(READ_BYTES), self._threads)

    def products(self, count: float, bits: int) -> Candidate:
        """So many products of bytes, exact for weights of so many bits.

        All of them: a part would be over before the loop has its speed, and with threads that
        start it would mostly time their start.
        """
        is_wide = int(bits > 6)
        a_step = self._probes.products_a_step(is_wide) * self._threads
        steps = max(round(count / a_step), 1)

        def run() -> None:
            self._probes.multiply_bytes(ctypes.c_int64(steps), is_wide, self._threads)

        return Candidate("products", [run], scale=count / (steps * a_step))
