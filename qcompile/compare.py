# SPDX-License-Identifier: Apache-2.0
"""compare and bench: two models, float files or artifacts, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.artifact import MODEL, Artifact, load, sha256
from qcompile.data import Data, read_data
from qcompile.errors import InputError
from qcompile.load import load as load_model
from qcompile.measure import measure_speed
from qcompile.normalise import normalise
from qcompile.session import open_model, run_float, session_options
from qcompile.synthetic import synthetic_data
from qcompile.verify_nodes import layer_sqnr


@dataclass(frozen=True)
class OutputRow:
    """One output: SQNR in dB, cosine, and how often the last axis has its maximum at one place.

    top1 is 0 to 1.
    """

    name: str
    sqnr_db: float
    cosine: float
    top1: float


@dataclass(frozen=True)
class Comparison:
    """All outputs, and the worst compiled nodes where B is an artifact of the float model A."""

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
    if not Path(path).is_dir():
        return load_model(path)
    return ir.load(Artifact.read(path).folder / MODEL)


def compare(a: str | Path, b: str | Path, data: Any, limit: int = 64) -> Comparison:
    """Run both on the data; A is the reference. InputError where inputs or outputs do not match."""
    model = model_of(a)
    samples = read_data(data, list(model.graph.inputs), limit)
    first, second = open_path(a), open_path(b)
    _check_names("inputs", first.get_inputs(), second.get_inputs())
    _check_names("outputs", first.get_outputs(), second.get_outputs())
    rows: dict[str, NDArray] = {}
    for feed in samples:
        pairs = zip(run_float(first, None, feed), run_float(second, None, feed), strict=True)
        for value, (x, y) in zip(first.get_outputs(), pairs, strict=True):
            if x.dtype.kind not in "fiub":
                continue
            if x.shape != y.shape:
                raise InputError(
                    f'output "{value.name}" has the shape {list(x.shape)} in {a} '
                    f"and {list(y.shape)} in {b}"
                )
            rows[value.name] = rows.get(value.name, np.zeros(6)) + _sums(x, y)
    worst = _worst(Path(a), Path(b), samples.first(4))
    return Comparison(tuple(_row(n, s) for n, s in rows.items()), worst, samples.num_samples)


def _check_names(what: str, first: list, second: list) -> None:
    names, others = [v.name for v in first], [v.name for v in second]
    if names != others:
        raise InputError(
            f"the models have different {what}: {', '.join(names)} and {', '.join(others)}"
        )


def _sums(a: NDArray, b: NDArray) -> NDArray:
    x, y = a.astype(np.float64), b.astype(np.float64)
    last = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    other = y.reshape(last.shape)
    agree = (last.argmax(1) == other.argmax(1)).sum() if last.size else 0
    return np.array(
        [(x * x).sum(), ((x - y) ** 2).sum(), (x * y).sum(), (y * y).sum(), agree, len(last)]
    )


def _row(name: str, sums: NDArray) -> OutputRow:
    signal, noise, dot, power, agree, count = (float(v) for v in sums)
    sqnr = float("-inf") if noise else float("inf")
    if noise and signal:
        sqnr = 10 * float(np.log10(signal / noise))
    length = float(np.sqrt(signal * power))
    return OutputRow(name, sqnr, dot / length if length else 1.0, agree / count if count else 1.0)


def _worst(a: Path, b: Path, data: Data) -> tuple[tuple[str, float], ...]:
    if a.is_dir() or not b.is_dir():
        return ()
    artifact = Artifact.read(b)
    if artifact.content["library"] is None or artifact.content["source"]["sha256"] != sha256(a):
        return ()
    return tuple(layer_sqnr(normalise(load_model(a)), artifact, ir.load(b / MODEL), data)[:5])


def bench(
    path: str | Path,
    versus: str | Path | None,
    threads: int,
    data: Any,
    seconds: float | None = None,
) -> dict[str, float]:
    """Milliseconds of `path`, interleaved with `versus` where given (ratio = versus ÷ path)."""
    if threads < 1:
        raise InputError(f"{threads} threads: at least 1 is needed")
    model = model_of(versus or path)
    samples = (
        read_data(data, list(model.graph.inputs), 1)
        if data is not None
        else synthetic_data(model, 0, 1)
    )
    second = open_path(path, threads)
    first = open_path(versus, threads) if versus is not None else second
    return measure_speed(first, second, next(iter(samples)), seconds)
