# SPDX-License-Identifier: Apache-2.0
"""The part that every script of benchmarks.peers shares; it needs nothing but the interpreter of
the tool and NumPy.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Quantize = Callable[[Path, dict[str, np.ndarray], Path, str], None]


def peak_bytes() -> int:
    """Peak resident memory of this process.

    ru_maxrss would not do: across fork and exec Linux carries the peak of the parent over.
    """
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def run(quantize: Quantize) -> None:
    """Quantize what the command line says (MODEL SAMPLES.npz OUTPUT WAY) and print what it cost.

    The last line of stdout is JSON; the import of the tool is not in the seconds.
    """
    model, samples, output, way = sys.argv[1:]
    with np.load(samples) as pack:
        inputs = {name: pack[name] for name in pack.files}
    start = time.perf_counter()
    quantize(Path(model), inputs, Path(output), way)
    seconds = time.perf_counter() - start
    print()
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


def feeds(inputs: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The samples one by one, each a batch of one."""
    count = min(len(array) for array in inputs.values())
    return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]


class Reader:
    """The samples one by one, as the calibrators of ONNX Runtime and Quark want them."""

    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        self._all = feeds(inputs)
        self._left = iter(self._all)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Start again."""
        self._left = iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
