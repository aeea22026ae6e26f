# SPDX-License-Identifier: Apache-2.0
"""--why, --metric and progress."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.run import names, run
from tests.pipeline.nets import cnn, mlp, samples


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", allow_pickle=False, **samples(mlp()))
    return mlp().save(Path("m.onnx"))


def test_why(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "w4a16", "--nodes-to-exclude", "/y_.*", "--why"]
    middle = run(capsys, model, *flags, "/middle_product/MatMul")
    assert (middle.code, middle.err) == (0, "")
    assert "weight: uint4/block(axis=1,size=32)/asym/f16" in middle.out.splitlines()
    assert "decided_by: preset w4a16" in middle.out.splitlines()
    left = json.loads(run(capsys, model, *flags, "/y_product/MatMul", "--json").out)
    assert left["weight"] is None and left["reason"] == "excluded by --nodes-to-exclude"
    value = json.loads(run(capsys, model, *flags, "x", "--json").out)
    assert value["spec"] is None and value["readers"] == ["/first_product/MatMul"]
    missing = run(capsys, model, *flags, "/midle_product/MatMul")
    assert (missing.code, missing.err) == (
        2,
        "error: --why /midle_product/MatMul: the normalised model has no such node or value: "
        'did you mean "/middle_product/MatMul"?\n',
    )
    assert names(Path()) == ["data.npz", "m.onnx"]


def test_why_names_the_presets_that_are_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cnn().save(Path("c.onnx"))
    nodes = json.loads(run(capsys, path, "--dry-run", "--json").out)["nodes"]
    conv = next(r["node"] for r in nodes if r["op"] == "Conv")
    refused = json.loads(run(capsys, path, "--why", conv, "--json").out)["refused"]
    presets = {name for names in refused.values() for name in names.split(", ")}
    assert presets == {f"w{bits}a16" for bits in range(1, 9)}


METRIC = """
def good(session): return 0.5
def word(session): return "high"
def breaks(session): raise RuntimeError("no labels")
scores = iter([0.9, 0.5])
def falls(session): return next(scores)
"""


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--metric", "my_metric:good", "--max-drop", "0"], 0, ""),
        (["--metric", "my_metric:word"], 2, "metric my_metric:word: str is no number"),
        (["--metric", "my_metric:breaks"], 2, "metric my_metric:breaks: RuntimeError: no labels"),
        (["--metric", "good"], 2, "metric good: MODULE:FUNCTION is needed"),
        (
            ["--metric", "my_metric:gone"],
            2,
            "metric my_metric:gone: module 'my_metric' has no attribute 'gone'",
        ),
        (
            ["--metric", "my_metric:scores"],
            2,
            "metric my_metric:scores: list_iterator is no function",
        ),
        (
            ["--metric", "my_metric:falls", "--max-drop", "0.1"],
            3,
            "verification failed; nothing was written\n"
            "  the metric drops by 0.4; --max-drop allows 0.1",
        ),
        (
            ["--max-drop", "0.1"],
            2,
            "a largest drop needs a metric: qcompile.compile(…, metric=function of a session)",
        ),
    ],
)
def test_metric(
    flags: list[str],
    code: int,
    message: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    Path("my_metric.py").write_text(METRIC)
    result = run(capsys, model, *flags, "--quiet")
    assert (result.code, result.err) == (code, f"error: {message}\n" if message else "")
    assert Path("m.qc").exists() == (code == 0)


@pytest.mark.parametrize("is_scored", [False, True])
def test_a_metric_is_a_measurement(
    is_scored: bool,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    Path("my_metric.py").write_text(METRIC)
    text = run(capsys, model, *["--metric", "my_metric:good"] * is_scored).out
    assert ("0.5 → 0.5" in text, "not measured" in text) == (is_scored, not is_scored)


def test_progress(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "w8a8", "--calibration-data", "data.npz"]
    lines = run(capsys, model, *flags, "--verbose").err.splitlines()
    stages = [line.split(":")[0] for line in lines]
    order = ["load", "normalise", "annotate", "calibrate", "transform", "lower", "pack", "emit"]
    assert [s for s in stages if s in order] == order and stages[-1] == "verify"
    assert next(line for line in lines if line.startswith("calibrate")).endswith(", 8 of 8 samples")
    both = run(capsys, model, *flags, "--verbose", "--quiet", "--force")
    assert (both.code, both.out, both.err) == (0, "", "")
