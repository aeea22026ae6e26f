# SPDX-License-Identifier: Apache-2.0
"""`qcompile analyze`: figures of weights and inputs, what formats lose, and bad files."""

import json
from pathlib import Path

import numpy as np
import pytest

from qcompile.analysis import CANDIDATES, analyze, errors_of, spec_of
from qcompile.distribution import distribution_of
from qcompile.observers.weight_range import squared_error
from qcompile.settle_formats import settled_spec
from tests.cli.run import names, run
from tests.pipeline.nets import cnn, mlp, samples


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return mlp().save(Path("m.onnx"))


def test_every_weight_has_its_figures_and_formats(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "analyze", model, "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["model"] == "m.onnx" and found["float_splits_of_training"]["4"] == "e2m1"
    assert found["tensors"] and {t["kind"] for t in found["tensors"]} == {"weight"}
    for tensor in found["tensors"]:
        assert [each["format"] for each in tensor["formats"]] == list(CANDIDATES)
        assert tensor["readers"] and len(tensor["shape"]) == 2
        assert tensor["crest"] >= tensor["crest_32"] * 0.5
        for bits in (4, 8):
            same = [e for e in tensor["formats"] if e["bits"] == bits]
            best = max(same, key=lambda each: each["searched_db"])
            assert tensor["best"][str(bits)] == best["format"]
        for each in tensor["formats"]:
            assert each["searched_db"] >= each["extremes_db"] - 1e-6


def test_tables_have_a_line_a_tensor_and_a_picture(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyze(model)
    lines = run(capsys, "analyze", model).out.splitlines()
    head = next(line for line in lines if line.startswith("weights"))
    assert "crest" in head and "best of 4 bits" in head
    for tensor in found:
        line = next(line for line in lines if line.startswith(tensor.name))
        assert "█" in line and f"{tensor.distribution.crest:.2f}" in line
    assert sum(line.startswith(CANDIDATES) for line in lines) == len(CANDIDATES)
    assert names(Path()) == ["m.onnx"]


def test_inputs_are_those_that_products_read(tmp_path: Path) -> None:
    net = cnn()
    path = net.save(tmp_path / "c.onnx")
    found = [t for t in analyze(path, [samples(net)], 8) if t.kind == "input"]
    weights = [t for t in analyze(path) if t.kind == "weight" and t.op != "Gather"]
    read = {name for t in found for name in t.readers}
    assert read == {name for t in weights for name in t.readers}
    columns = {name: t.shape[1] for t in weights for name in t.readers}
    assert all(t.shape[1] == columns[name] for t in found for name in t.readers)


def test_measured_is_what_codes_lose() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    energy = float(np.square(rows, dtype=np.float64).sum())
    for each in errors_of(rows):
        spec = settled_spec(rows, spec_of(each.format))
        for method, db in (("minmax", each.extremes_db), ("mse", each.searched_db)):
            share = squared_error(rows, spec, method) / energy
            assert db == pytest.approx(-10 * np.log10(share))
        if each.predicted_db is not None:  # Gaussian, as the theorems have it
            assert each.predicted_db == pytest.approx(each.extremes_db, abs=1)


def test_a_weight_of_zeros_and_one_with_nan(tmp_path: Path) -> None:
    net = mlp()
    first, second = [w for w in net.weights.values() if w.ndim == 2][:2]
    first[:] = 0
    second[0, 0] = np.nan
    found = analyze(net.save(tmp_path / "m.onnx"))
    assert next(t for t in found if t.distribution.rms == 0).formats == ()
    assert not any(np.isnan(t.distribution.rms) for t in found)
    assert distribution_of(np.zeros((1, 1), np.float32)).crest is None


def test_bad_files_are_refused_as_by_compile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.onnx").write_bytes(b"no model")
    for arguments in (["bad.onnx"], ["none.onnx"]):
        one, other = run(capsys, "analyze", *arguments), run(capsys, *arguments)
        assert one.code == 2 and (one.code, one.err) == (other.code, other.err)
    path = mlp().save(Path("m.onnx"))
    result = run(capsys, "analyze", path, "--calibration-data", "none.npz")
    assert result.code == 2 and "none.npz" in result.err
