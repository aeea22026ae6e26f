# SPDX-License-Identifier: Apache-2.0
"""compare and bench: two models, float files or artifacts, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qcompile.artifact import MODEL, Artifact, load
from qcompile.data import Data, read_data, synthetic_data
from qcompile.errors import InputError
from qcompile.load import load as load_model
from qcompile.measure import measure_speed
from qcompile.normalise import normalise
from qcompile.session import open_model, session_options
from qcompile.verify_nodes import layer_sqnr


@dataclass(frozen=True)
class OutputRow:
    """One output: SQNR in dB, cosine, and how often the greatest element of the last axis agrees (0 to 1)."""

    name: str
    sqnr_db: float
    cosine: float
    top1: float


@dataclass(frozen=True)
class Comparison:
    """All outputs, and the worst compiled nodes where one side is an artifact and the other its float model."""

    outputs: tuple[OutputRow, ...]
    worst_nodes: tuple[tuple[str, float], ...]
    num_samples: int


def open_path(path: str | Path, threads: int | None = None) -> ort.InferenceSession:
    """A session of an .onnx file or an artifact."""
    if Path(path).is_dir():
        return load(path, threads)
    return open_model(load_model(path), session_options(threads))


def model_of(path: str | Path) -> ir.Model:
    """The graph behind a path, for its inputs."""
    return ir.load(Path(path) / MODEL) if Path(path).is_dir() else load_model(path)


def compare(a: str | Path, b: str | Path, data: Any, limit: int = 64) -> Comparison:
    """Run both on the data; A is the reference. Raises InputError where inputs or outputs do not match."""
    model = model_of(a)
    samples = read_data(data, list(model.graph.inputs), limit)
    first, second = open_path(a), open_path(b)
    names = [o.name for o in first.get_outputs()]
    others = [o.name for o in second.get_outputs()]
    if names != others:
        raise InputError(
            f"the models have different outputs: {', '.join(names)} and {', '.join(others)}"
        )
    rows = {n: np.zeros(6) for n in names}
    for feed in samples:
        for name, x, y in zip(names, first.run(None, feed), second.run(None, feed), strict=True):
            rows[name] += _sums(x.astype(np.float64), y.astype(np.float64))
    worst = _worst(Path(a), Path(b), samples.first(4))
    return Comparison(tuple(_row(n, s) for n, s in rows.items()), worst, samples.num_samples)


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    last = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    other = y.reshape(last.shape)
    agree = (last.argmax(1) == other.argmax(1)).sum() if last.size else 0
    return np.array(
        [(x * x).sum(), ((x - y) ** 2).sum(), (x * y).sum(), (y * y).sum(), agree, len(last)]
    )


def _row(name: str, sums: np.ndarray) -> OutputRow:
    signal, noise, dot, power, agree, count = (float(v) for v in sums)
    sqnr = (
        10 * float(np.log10(signal / noise))
        if noise and signal
        else float("inf")
        if not noise
        else float("-inf")
    )
    length = float(np.sqrt(signal * power))
    return OutputRow(name, sqnr, dot / length if length else 1.0, agree / count if count else 1.0)


def _worst(a: Path, b: Path, data: Data) -> tuple[tuple[str, float], ...]:
    if a.is_dir() or not b.is_dir():
        return ()
    artifact = Artifact.read(b)
    if artifact.content["library"] is None:
        return ()
    return tuple(layer_sqnr(normalise(load_model(a)), artifact, ir.load(b / MODEL), data)[:5])


def bench(
    path: str | Path, versus: str | Path | None, threads: int, data: Any, seconds: float = 3.0
) -> dict[str, float]:
    """Milliseconds of `path`, interleaved with `versus` where given (ratio = versus ÷ path)."""
    model = model_of(versus or path)
    samples = (
        read_data(data, list(model.graph.inputs), 1)
        if data is not None
        else synthetic_data(model, 0, 1)
    )
    second = open_path(path, threads)
    first = open_path(versus, threads) if versus is not None else second
    return measure_speed(first, second, next(iter(samples)), seconds)
