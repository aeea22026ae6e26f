# SPDX-License-Identifier: Apache-2.0
"""The same models through other quantizers and qcompile: accuracy, size, compile cost, speed.

    QC_DATA=… python -m benchmarks.peers --environments FOLDER [--install] \\
        [--models resnet20,kws] [--settings w8a8,w4a4/8] [--tools ort,qcompile] [--limit 1000]
        [--seconds 5] [--outputs FOLDER] [--json]

Every tool runs in a process of its own, with the interpreter of its environment (--install makes
those that are missing) or this one, on the same 128 calibration samples. The seconds are those of
its call without imports, with its own number of threads; the peak is that of the whole process.
Then ONNX Runtime (of this interpreter) runs every result on the same samples: the difference is
paired, ± its standard error, and the speed is the ratio of medians to float32, all of them
round-robin with batch 1 and one thread. Below the table qcompile is held against the lower of each
peer and the float model: "better" and "worse" where the 95 % interval of the paired difference says
so.

--outputs keeps the quantized models, and takes those that are there.

A setting is a preset and the bits of the first and last layer: w4a8 (as the rest), w4a4/8. Tools
other than qcompile leave edges of other bits in floats.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import qcompile
from benchmarks.networks import measure, plain
from benchmarks.peer_data import CALIBRATION, CASES, Samples, score
from benchmarks.peer_tools import PACKAGES, install, installed, interpreters

ROOT = Path(__file__).resolve().parent.parent
# By the metric: image models in 8 bits, language models in 4-bit weights of blocks of 32.
COSTS = "costs.json"
SETTINGS = {"loss": "w4a16", "top-1, %": "w8a8"}


@dataclass
class Row:
    """What one tool did with one model; error instead of the figures where it failed.

    against: of qcompile, tool → the paired difference in its favour, and the standard error.
    """

    model: str
    tool: str
    version: str
    num_samples: int
    value: float | None = None
    difference: float | None = None
    standard_error: float | None = None
    num_bytes: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    speed: float | None = None
    error: str | None = None
    against: dict[str, tuple[float, float]] = field(default_factory=dict)


def quantize(row: Row, python: str, way: str, model: Path, samples: Path, output: Path) -> None:
    """Run the script of the tool, unless it has; the row gets the costs or the error."""
    kept = output / COSTS
    if kept.exists():
        costs = json.loads(kept.read_text(encoding="utf-8"))
    else:
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        costs = run_script(row, python, way, model, samples, output)
        kept.write_text(json.dumps(costs), encoding="utf-8")
    row.error = costs.get("error")
    if row.error is None:
        row.seconds, row.peak_bytes = costs["seconds"], costs["peak_bytes"]
        row.num_bytes = _num_bytes(output)


def run_script(
    row: Row, python: str, way: str, model: Path, samples: Path, output: Path
) -> dict[str, Any]:
    """seconds and peak_bytes, or the error."""
    script = f"benchmarks.peer_{row.tool.split()[0]}"
    command = [python, "-m", script, str(model), str(samples), str(output), way]
    # Quark leaves a table where it runs.
    place = {"cwd": output.parent, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **place)
    if done.returncode:
        return {"error": _reason(done.stderr) or f"exit status {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _reason(stderr: str) -> str:
    """The message of the exception, which may have several lines, on one."""
    heads = list(re.finditer(r"^[\w.]*(Error|Exception)\b", stderr, re.MULTILINE))
    start = stderr.rfind("not offered:")
    text = stderr[heads[-1].start() if heads else start if start >= 0 else -200 :]
    return " ".join(text.split())


def _num_bytes(output: Path) -> int:
    """Of the model and its weights, without qcompile's library and manifest."""
    if (output / "model.qc").exists():
        return qcompile.Artifact.read(output / "model.qc").model_bytes
    files = [file for file in output.iterdir() if file.is_file() and file.name != COSTS]
    return sum(file.stat().st_size for file in files)


def session(output: Path) -> ort.InferenceSession:
    """One thread."""
    artifact = output / "model.qc"
    return qcompile.load(artifact, 1) if artifact.exists() else plain(output / "model.onnx", 1)


def attempts(tools: dict[str, str], setting: str) -> Iterator[tuple[str, str, str, str]]:
    """Tool, label, interpreter, setting; target ort has no narrow convolutions."""
    targets = ("cpu", "ort") if setting in SETTINGS.values() else ("cpu",)
    for tool, python in tools.items():
        if tool == "qcompile":
            for target in targets:
                yield tool, f"{tool} {target} {setting}", python, f"{setting}:{target}"
        else:
            yield tool, f"{tool} {setting}", python, setting


def rows_of(
    name: str, setting: str, tools: dict[str, str], data: Path, outputs: Path, chosen: Any
) -> list[Row]:
    """Every tool on one model; the first row is the float model."""
    case = CASES[name]
    model, samples = data / case.file, case.read(data, chosen.limit)
    count = len(samples.labels)
    found = {"float": plain(model, 1)}
    rows = [Row(name, "float", ort.__version__, count, num_bytes=model.stat().st_size)]
    inputs = outputs / name / "samples.npz"
    inputs.parent.mkdir(parents=True, exist_ok=True)
    np.savez(inputs, **{found["float"].get_inputs()[0].name: samples.calibration})
    for tool, label, python, way in attempts(tools, setting):
        version = installed(tool, python)
        output = inputs.parent / label.replace(" ", "_").replace("/", "_")
        row = Row(name, label, version or "", count)
        rows.append(row)
        if version is None:
            row.error = "not installed"
            continue
        quantize(row, python, way, model, inputs, output)
        if row.error is None:
            try:
                found[label] = session(output)
            except Exception as error:  # ORT has no public base class of its errors
                row.error = f"does not load: {str(error).splitlines()[0]}"
    _compare(rows, found, samples, case.metric, chosen.seconds)
    return rows


def _compare(
    rows: list[Row], found: dict[str, Any], samples: Samples, metric: str, seconds: float
) -> None:
    """Add score and speed to the rows that have a session."""
    feed = {found["float"].get_inputs()[0].name: samples.inputs[:1]}
    scores = {tool: score(one, samples, metric) for tool, one in found.items()}
    times = measure(found, feed, seconds)
    for row in rows:
        if row.tool in found and np.isnan(scores[row.tool]).any():
            row.error = "its outputs are NaN"
            del found[row.tool]
        if row.tool in found:
            row.value = float(scores[row.tool].mean())
            row.difference, row.standard_error = paired(scores[row.tool], scores["float"])
            row.speed = times["float"] / times[row.tool]
    sign = -1 if metric == "loss" else 1
    peers = [tool for tool in found if tool != "float" and not tool.startswith("qcompile")]
    for row in rows:
        if not row.tool.startswith("qcompile") or row.tool not in found:
            continue
        for peer in peers:
            lower = min((peer, "float"), key=lambda tool: sign * scores[tool].mean())
            row.against[peer] = paired(sign * scores[row.tool], sign * scores[lower])


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The mean of a − b and its standard error.

    >>> paired(np.array([3.0, 5.0]), np.array([1.0, 1.0]))
    (3.0, 1.0)
    """
    difference = a - b
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def verdict(difference: float, standard_error: float) -> str:
    """In words, at 95 %.

    >>> [verdict(d, 1.0) for d in (3.0, 1.0, -3.0)]
    ['better', 'equal within the noise', 'worse']
    """
    if abs(difference) <= 1.96 * standard_error:
        return "equal within the noise"
    return "better" if difference > 0 else "worse"


def show(rows: list[Row]) -> None:
    """The table of one model."""
    metric = CASES[rows[0].model].metric
    print(
        f"\n{rows[0].model}: {metric}, {rows[0].num_samples} samples, {CALIBRATION} for calibration"
    )
    heads = (metric, "difference ± error", "kB", "compile s", "peak MB", "x float32")
    print(
        f"{'':20} {'version':8}" + "".join(f"{h:>{w}}" for h, w in zip(heads, WIDTHS, strict=True))
    )
    for row in rows:
        print(f"{row.tool:20} {row.version:8}" + (f"  {row.error}" if row.error else _cells(row)))
    for row in rows:
        for peer, (difference, error) in row.against.items():
            text = f"{verdict(difference, error)} ({difference:+.3f} ± {error:.3f})"
            print(f"  {row.tool} against the lower of {peer} and float: {text}")


WIDTHS = (10, 20, 9, 11, 9, 11)


def _cells(row: Row) -> str:
    cells = [
        f"{row.value:.3f}",
        f"{row.difference:+.3f} ± {row.standard_error:.3f}",
        f"{(row.num_bytes or 0) / 1000:.0f}",
        "" if row.seconds is None else f"{row.seconds:.1f}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
        f"{row.speed:.2f}",
    ]
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def chosen_models(names: str | None, data: Path) -> list[str]:
    """Those asked for, or all that are in the folder."""
    if names is None:
        return [name for name, case in CASES.items() if (data / case.file).exists()]
    if unknown := [name for name in names.split(",") if name not in CASES]:
        raise SystemExit(f"unknown models {', '.join(unknown)}: there are {', '.join(CASES)}")
    return names.split(",")


def main() -> None:
    """Print one table a model, or all rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", help="names with commas between them; default: all found")
    parser.add_argument("--settings", help="default: w8a8, of language models w4a16")
    parser.add_argument("--tools", default=",".join(PACKAGES))
    parser.add_argument("--environments", type=Path, help="a folder with one a tool")
    parser.add_argument("--install", action="store_true", help="make the environments")
    parser.add_argument("--limit", type=int, default=10_000, help="samples to score")
    parser.add_argument("--seconds", type=float, default=5.0, help="to time a model")
    parser.add_argument("--outputs", type=Path, help="where the quantized models are kept")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "QC_DATA" not in os.environ:
        raise SystemExit("QC_DATA is not set: this benchmark needs its models and data")
    data = Path(os.environ["QC_DATA"]).absolute()
    chosen = arguments.tools.split(",")
    if arguments.install and arguments.environments is not None:
        install(arguments.environments, chosen)
    tools = interpreters(arguments.environments, chosen)
    everything = []
    with tempfile.TemporaryDirectory() as temporary:
        outputs = (arguments.outputs or Path(temporary)).absolute()
        for name in chosen_models(arguments.models, data):
            for setting in (arguments.settings or SETTINGS[CASES[name].metric]).split(","):
                rows = rows_of(name, setting, tools, data, outputs, arguments)
                everything += [asdict(row) for row in rows]
                if not arguments.json:
                    show(rows)
    if arguments.json:
        print(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
