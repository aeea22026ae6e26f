# SPDX-License-Identifier: Apache-2.0
"""Memory, time and processor time of every stage, on a made-up Llama-like model or one of yours.

    python -m benchmarks.memory [--size large|long|medium|small] [--model FILE.onnx]
        [--preset w4a16] [--calibration-data FILE.npz] [--samples N] [--max-memory 900MB]
        [--folder DIR]

RssAnon is what the process holds of its own; pages of mapped files can be dropped at any time and
are not in it. Sampled every 10 ms.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import qcompile
import qcompile.verify
from benchmarks.large_model import LONG, MEDIUM, SMALL, Size, write_model
from qcompile.memory import parse_size

SIZES = {"large": Size(), "long": LONG, "medium": MEDIUM, "small": SMALL}
INTERVAL = 0.01
STAGES = (
    *("load_model", "normalise", "annotate", "rotate"),
    *("calibrate", "compensate_weights"),
    *("transform", "lower", "pack", "emit", "verify"),
)


def anonymous_bytes(process: int | str = "self") -> int:
    """RssAnon of a process."""
    text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10


class Sampler:
    """The peak of RssAnon since it was last asked, from a thread of its own."""

    def __init__(self) -> None:
        self.peak = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(INTERVAL)

    def take(self) -> int:
        """The peak; it starts anew."""
        peak, self.peak = max(self.peak, anonymous_bytes()), 0
        return peak


@contextmanager
def watched(rows: list[tuple[str, float, int]]) -> Iterator[None]:
    """Within it, every stage and every rung of verify adds its row (name, seconds, peak)."""
    sampler, kept = Sampler(), []
    checks = [n for n in vars(qcompile.verify) if n.startswith(("check_", "end_to", "measure_"))]
    checks += ["layer_sqnr", "record", "record_floats"]
    compile_module = sys.modules["qcompile.compile"]
    for module, names in ((compile_module, STAGES), (qcompile.verify, checks)):
        for name in names:
            if hasattr(module, name):
                kept.append((module, name, getattr(module, name)))
    for module, name, function in kept:
        setattr(module, name, _timed(function, name, rows, sampler))
    try:
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def _timed(function: Callable, name: str, rows: list, sampler: Sampler) -> Callable:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter(), time.process_time()
        sampler.take()
        try:
            return function(*args, **kwargs)
        finally:
            seconds, processor = time.perf_counter() - start[0], time.process_time() - start[1]
            rows.append((name, seconds, sampler.take()))
            peak = rows[-1][2] / 1e6
            print(f"{name:20} {seconds:8.1f} s {processor:8.1f} s {peak:8.0f} MB", flush=True)

    return timed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="large")
    parser.add_argument("--model", type=Path, help="instead of a made-up one")
    parser.add_argument("--preset", default="w4a16")
    parser.add_argument("--calibration-data", help="makes GPTQ run")
    parser.add_argument("--samples", type=int, help="tokens: as many made-up sequences of 32")
    parser.add_argument("--max-memory", type=parse_size)
    parser.add_argument("--folder", type=Path, help="keeps the model; default a temporary one")
    return parser.parse_args()


def main() -> None:
    """Print one row a stage, a rung of verify, and the whole."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        path = arguments.model
        if path is None:
            path = (arguments.folder or Path(temporary)) / f"{arguments.size}.onnx"
            if not path.exists():
                write_model(path, SIZES[arguments.size])
        rows: list[tuple[str, float, int]] = []
        size = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
        print(f"{size / 1e9:.2f} GB; start {anonymous_bytes() / 1e6:.0f} MB")
        start, begin = time.perf_counter(), time.process_time()
        with watched(rows):
            artifact = qcompile.compile(
                path,
                "cpu",
                Path(temporary) / "out.qc",
                recipe=qcompile.Recipe(preset=arguments.preset),
                calibration_data=_data(arguments),
                limits=qcompile.Limits(max_memory=arguments.max_memory),
            )
        seconds, peak = time.perf_counter() - start, max(row[2] for row in rows)
        processor = time.process_time() - begin
        print(f"{'whole':20} {seconds:8.1f} s {processor:8.1f} s {peak / 1e6:8.0f} MB")
        print(f"artifact {artifact.model_bytes / 1e9:.3f} GB")


def _data(arguments: argparse.Namespace) -> Any:
    """A file, or tokens for the made-up model."""
    if arguments.samples is None:
        return arguments.calibration_data
    words = SIZES[arguments.size].vocabulary
    return {"ids": np.random.default_rng(1).integers(0, words, (arguments.samples, 32))}


if __name__ == "__main__":
    main()
