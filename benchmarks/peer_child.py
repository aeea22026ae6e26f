# SPDX-License-Identifier: Apache-2.0
"""The part that every script of benchmarks.peers shares; it needs nothing but the interpreter of
the tool, NumPy and onnx.

A setting is a preset of qcompile and the bits of the edges, the first and last layer: w4a8 (as the
rest), w4a4/8; of qcompile itself with a target, w4a4/8:cpu.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

PRODUCTS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True)
class Setting:
    """activation: "8", "4", "16" (floats) or "4-dynamic"."""

    preset: str
    weight_bits: int
    activation: str
    edge_bits: int
    target: str = ""

    @staticmethod
    def parse(text: str) -> "Setting":
        """Of w4a8 or w4a8/8.

        >>> Setting.parse("w3a8/8")
        Setting(preset='w3a8', weight_bits=3, activation='8', edge_bits=8, target='')
        """
        text, _, target = text.partition(":")
        preset, _, edge = text.partition("/")
        weight, activation = preset[1:].split("a", 1)
        return Setting(preset, int(weight), activation, int(edge or weight), target)


class NotOffered(Exception):
    """The tool has no way to do the setting."""


Quantize = Callable[[Path, dict[str, np.ndarray], Path, Setting], None]


def peak_bytes() -> int:
    """Peak resident memory of this process.

    ru_maxrss would not do: across fork and exec Linux carries the peak of the parent over.
    """
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def run(quantize: Quantize) -> None:
    """Quantize what the command line says (MODEL SAMPLES.npz OUTPUT SETTING) and print the cost.

    The last line of stdout is JSON; the import of the tool is not in the seconds.
    """
    model, samples, output, setting = sys.argv[1:]
    with np.load(samples) as pack:
        inputs = {name: pack[name] for name in pack.files}
    start = time.perf_counter()
    try:
        quantize(Path(model), inputs, Path(output), Setting.parse(setting))
    except NotOffered as problem:
        raise SystemExit(f"not offered: {problem}") from None
    seconds = time.perf_counter() - start
    print()
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


def wide_edges(model: Path, setting: Setting) -> list[str]:
    """The first and the last product where they have more bits: tools leave them in floats."""
    if setting.edge_bits == setting.weight_bits:
        return []
    products = [node.name for node in onnx.load(model).graph.node if node.op_type in PRODUCTS]
    return [products[0], products[-1]]


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
