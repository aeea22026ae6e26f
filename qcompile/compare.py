# SPDX-License-Identifier: Apache-2.0
"""compare and bench: two models, float files or artifacts, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from qcompile.artifact import Artifact, load, sha256
from qcompile.data import Batch, Data, Feed, read_data
from qcompile.element_types import is_number
from qcompile.errors import InputError
from qcompile.load import load as load_model
from qcompile.measure import measure_speed
from qcompile.normalise import normalise
from qcompile.session import open_model, run_float, session_options
from qcompile.synthetic import synthetic_data
from qcompile.timesteps import by_timestep
from qcompile.verify_nodes import record
from qcompile.verify_sqnr import layer_sqnr

MAX_THREADS = 1024  # ONNX Runtime starts them all, and with a wrong number for hours


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


def open_path(
    path: str | Path, threads: int | None = None, *, trust: bool = False
) -> ort.InferenceSession:
    """A session of an .onnx file or an artifact; trust: libraries may be loaded."""
    if Path(path).is_dir():
        has_network = Artifact.read(path).content.get("network") is not None
        return load(path, threads, trust_library=trust and has_network)
    return open_model(load_model(path), session_options(threads))


def model_of(path: str | Path) -> ir.Model:
    """The graph behind a path, for its inputs."""
    if not Path(path).is_dir():
        return load_model(path)
    return Artifact.read(path).model()


def compare(
    a: str | Path, b: str | Path, data: Any, limit: int = 64, *, trust: bool = False
) -> Comparison:
    """Run both on the data; A is the reference. InputError where inputs or outputs do not match."""
    if limit < 1:
        raise InputError(f"{limit} samples: at least 1 is needed")
    first, second = (open_path(path, trust=trust) for path in (a, b))
    _check_alike(first, second)
    inputs = [list(model_of(path).graph.inputs) for path in (a, b)]
    # A batch that either fixes cuts the data for both.
    fixed = min(inputs, key=lambda found: Batch.of(found).is_free)
    samples = read_data(data, fixed, limit)
    for step in filter(None, map(_timestep, (a, b))):
        samples = by_timestep(samples, fixed, step)
    rows: dict[str, NDArray] = {}
    for feed in samples:
        pairs = zip(run_float(first, None, feed), run_float(second, None, feed), strict=True)
        for value, (x, y) in zip(first.get_outputs(), pairs, strict=True):
            if not is_number(x.dtype):
                continue
            if x.shape != y.shape:
                raise InputError(
                    f'output "{value.name}" has the shape {list(x.shape)} in {a} '
                    f"and {list(y.shape)} in {b}"
                )
            rows[value.name] = rows.get(value.name, np.zeros(6)) + _sums(x, y)
    worst = _worst(Path(a), Path(b), samples.first(4))
    return Comparison(tuple(_row(n, s) for n, s in rows.items()), worst, samples.num_samples)


def _timestep(path: str | Path) -> str | None:
    """The input that chooses scales of an artifact, whose samples of one run share it."""
    if not Path(path).is_dir():
        return None
    found = Artifact.read(Path(path)).content.get("recipe")
    step = found.get("timestep_input") if isinstance(found, dict) else None
    return step if isinstance(step, str) else None


def _check_alike(first: ort.InferenceSession, second: ort.InferenceSession) -> None:
    """Names, types and ranks agree, and so do the dimensions that both fix."""
    pairs = (
        ("input", first.get_inputs(), second.get_inputs()),
        ("output", first.get_outputs(), second.get_outputs()),
    )
    for what, ours, theirs in pairs:
        names, others = [v.name for v in ours], [v.name for v in theirs]
        if names != others:
            raise InputError(
                f"the models have different {what}s: {', '.join(names)} and {', '.join(others)}"
            )
    problems = [
        f'{what} "{x.name}" is {x.type} {x.shape} in the first model and {y.type} {y.shape} in the '
        "second"
        for what, ours, theirs in pairs
        for x, y in zip(ours, theirs, strict=True)
        if x.type != y.type or not _may_agree(x.shape, y.shape)
    ]
    if problems:
        raise InputError("\n".join(problems))


def _may_agree(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int)
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
    packed = artifact.model()
    runs = record(artifact, packed, data)
    return tuple(layer_sqnr(normalise(load_model(a)), packed, runs, data)[:5])


def bench(
    path: str | Path,
    versus: str | Path | None,
    threads: int,
    data: Any = None,
    seconds: float | None = None,
    shapes: tuple[str, ...] = (),
    *,
    trust: bool = False,
) -> dict[str, Any]:
    """Milliseconds of `path`, interleaved with `versus` where given (ratio = versus ÷ path).

    shapes: "INPUT=1x3x224x224" for inputs with free dimensions; without data and shapes one sample.
    """
    check_bench(threads, seconds, data, shapes)
    feed = feed_for(model_of(versus or path), data, shapes)
    second = open_path(path, threads, trust=trust)
    first = open_path(versus, threads, trust=trust) if versus is not None else second
    if versus is not None:
        _check_alike(first, second)
    for session in dict.fromkeys((first, second)):  # a float model first, which knows its windows
        run_float(session, None, feed)
    found = measure_speed(first, second, feed, seconds, whole=True)
    found |= {"threads": threads, "shapes": {n: list(x.shape) for n, x in feed.items()}}
    if versus is None:
        return {k: v for k, v in found.items() if k not in ("float_ms", "ratio", "ratio_interval")}
    return found


def check_bench(threads: int, seconds: float | None, data: Any, shapes: tuple[str, ...]) -> None:
    """InputError where these cannot be measured with."""
    if threads < 1:
        raise InputError(f"{threads} threads: at least 1 is needed")
    if threads > MAX_THREADS:
        raise InputError(f"{threads} threads: at most {MAX_THREADS} can be measured")
    if seconds is not None and not 0 <= seconds < np.inf:
        raise InputError(f"{seconds:g} seconds: 0 or more is needed")
    if data is not None and shapes:
        raise InputError("--shape is for random data: leave out --data or --shape")


def feed_for(model: ir.Model, data: Any, shapes: tuple[str, ...]) -> Feed:
    """One sample of the data, or a random one."""
    given = dict(_parse_shape(text) for text in shapes)
    samples = (
        read_data(data, list(model.graph.inputs), 1)
        if data is not None
        else synthetic_data(model, 0, 1, shapes=given)
    )
    return next(iter(samples))


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name and the shape of "x=1x3x8"; a scalar is "x="."""
    name, equals, dims = text.rpartition("=")
    words = dims.lower().split("x") if dims else []
    if not (name and equals) or not all(w.isascii() and w.isdigit() for w in words):
        raise InputError(f"shape {text}: INPUT=1x3x224x224 is needed")
    return name, tuple(int(w) for w in words)
