# SPDX-License-Identifier: Apache-2.0
"""What the commands print: results on stdout, logs and errors on stderr."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import qcompile
from qcompile import cli, targets
from qcompile.formats import DECODED_ONLY, FORMATS, IROOTS, PALETTES
from qcompile.formats.block import BLOCK_FORMATS
from qcompile.numerics.softmax_formats import NAMES as SOFTMAX
from qcompile.runtime_ops import ISAS
from tests.cli.run import names, run
from tests.pipeline.nets import Net, mlp, samples


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", allow_pickle=False, **samples(mlp()))
    return mlp().save(Path("m.onnx"))


def test_report(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, model, "--preset", "w4a8", "--calibration-data", "data.npz")
    assert (result.code, result.err) == (0, "")
    labels = [line[:18].rstrip() for line in result.out.splitlines()]
    assert labels[:6] == ["artifact", "target, preset", "size", "coverage", "SQNR", "worst node"]
    assert labels[6:8] == ["time of one input", "verified"]
    assert "100.0 % of the weights run from packed codes (int8 55.6 %, int4 44.4 %)" in result.out
    assert "(calibration data)" in result.out


def test_report_of_random_inputs(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, model).out
    assert "note: preset w8a8-dynamic was chosen because no calibration data was given" in out
    assert "WARNING: accuracy was not measured: without --calibration-data" in out


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, model, "--json")
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out)
    manifest = json.loads(Path("m.qc/manifest.json").read_text())
    assert printed["folder"] == "m.qc"
    assert printed["content"] == manifest["content"]
    assert printed["measured"] == manifest["measured"]


def test_quiet(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, model, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_snake_case_flags(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snake = ["--calibration_data=data.npz", "--edge_bits", "4", "--nodes_to_exclude", "/y_.*"]
    assert run(capsys, "--preset", "w4a8", model, *snake, "--quiet").code == 0
    rows = qcompile.Artifact.read("m.qc").content["nodes"]
    assert [r["weight"] and r["weight"].split("/")[0] for r in rows] == ["int4", "int4", None]


def test_dry_run_writes_nothing(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(Path())
    result = run(capsys, model, "--dry-run", "--preset", "w4a16", "--nodes-to-exclude", "/y_.*")
    assert (result.code, result.err) == (0, "")
    assert names(Path()) == before
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["target", "cpu,", "preset", "w4a16"]
    assert lines[2][:3] == ["/first_product/MatMul", "MatMul", "int8/axis(axis=0)/sym/f32"]
    assert lines[2][-2:] == ["--edge-bits", "8"]
    assert lines[3][2] == "uint4/block(axis=1,size=32)/asym/f16"
    assert "excluded by --nodes-to-exclude" in result.out
    assert lines[5] == ["coverage", "88.9", "%"]


def test_dry_run_agrees_with_the_artifact(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "w4a8", "--calibration-data", "data.npz"]
    planned = json.loads(run(capsys, model, *flags, "--dry-run", "--json").out)
    made = json.loads(run(capsys, model, *flags, "--json").out)["content"]
    same = ("node", "op", "weight", "activation", "kernel", "reason", "decided_by")
    rows = [{k: row[k] for k in same} for row in planned["nodes"]]
    assert rows == [{k: row[k] for k in same} for row in made["nodes"]]
    for key in ("target", "preset", "coverage", "float_nodes"):
        assert planned[key] == made[key]
    # What comes of tuning is known after it.
    before = [note for note in made["notes"] if not re.match("not tuned|tuned|sequential", note)]
    tuning = (
        "at most 60 steps of tuning follow, kept where held-out samples gain (--effort quick: none)"
    )
    assert planned["notes"] == [*before, tuning]
    quick = run(capsys, model, *flags, "--dry-run", "--json", "--effort", "quick").out
    assert json.loads(quick)["notes"] == before


def test_dry_run_names_what_follows(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--effort", "quick", "--calibration-data", "data.npz", "--dry-run", "--json"]
    dynamic = ["--preset", "w4a4-dynamic", "--edge-bits", "4", "--low-rank", "0.1"]
    notes = json.loads(run(capsys, model, *flags, *dynamic).out)["notes"]
    clip, part = notes[-2:]
    assert clip.startswith("dynamic activations below 8 bits clip where")
    assert part.startswith("low-rank parts of at most 0.1 of the smaller side follow")
    static = ["--preset", "w4a4", "--activation-polish", "lognp"]
    notes = json.loads(run(capsys, model, *flags, *static).out)["notes"]
    assert notes[-1].startswith("activation polish lognp: narrow activations get its levels")


def test_ways_of_tuning(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "w2a8", "--edge-bits", "2", "--calibration-data", "data.npz"]
    flags += ["--weight-rounding", "blocks", "--tuning", "saliency"]
    made = json.loads(run(capsys, model, *flags, "--json").out)["content"]
    assert (made["recipe"]["weight_rounding"], made["recipe"]["tuning"]) == ("blocks", "saliency")
    assert any("blocks" in note for note in made["notes"])
    assert any("saliency" in note or "not tuned: " in note for note in made["notes"])
    wrong = run(capsys, model, "--tuning", "salience")
    assert wrong.code == 2
    assert 'unknown tuning "salience"' in wrong.err


def test_inspect(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, model, "--quiet", "--nodes-to-exclude", ".*first.*").code == 0
    made, source = run(capsys, "inspect", "m.qc"), run(capsys, "inspect", model)
    assert (made.code, source.code) == (0, 0)
    assert "n16k4/1" in made.out and "excluded by --nodes-to-exclude" in made.out
    assert source.out.splitlines()[0] == "target cpu, preset w8a8-dynamic"
    shown = json.loads(run(capsys, "inspect", "m.qc", "--json").out)
    manifest = json.loads(Path("m.qc/manifest.json").read_text())
    assert {k: shown[k] for k in ("content", "measured")} == {
        k: manifest[k] for k in ("content", "measured")
    }
    facts = shown["inspected"]
    on_disk = {p.name: p.stat().st_size for p in Path("m.qc").iterdir()}
    parts = {"library": "libqcompile_ops.so", "manifest": "manifest.json"}
    assert {parts.get(k, k): v for k, v in facts["bytes"].items()} == on_disk
    assert facts["isa"] in ISAS and facts["isa"] in made.out
    # n16k4 holds 64 codes of 8 bits and one f32 scale for every output, here without padding.
    assert facts["bits_per_weight"] == 8 + 32 / 64
    assert facts["ops"]["com.qcompile::QMatMul"] == 2 and facts["recurrent"] == []


def test_inspect_lists_recurrent_weights_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    rng = np.random.default_rng(0)
    x = net.input("x", [5, 1, 64])
    weight = net.array("w", rng.standard_normal((1, 32, 64)).astype(np.float32))
    recurrence = net.array("r", rng.standard_normal((1, 32, 8)).astype(np.float32))
    net.nodes.append(
        helper.make_node("LSTM", [x, weight, recurrence], ["h"], "lstm", hidden_size=8)
    )
    net.linear(net.node("Reshape", ["h", net.array("s", np.array([5, 8]))], "flat"), 8, 16, "y")
    net.output("y", [5, 16])
    path = net.save(tmp_path / "m.onnx")
    facts = json.loads(run(capsys, "inspect", path, "--json").out)["inspected"]
    row = {"node": "lstm", "op": "LSTM", "elements": 32 * 72, "bytes": 4 * 32 * 72}
    assert facts["recurrent"] == [row]
    assert "LSTM lstm: 2,304 weights in 9,216 bytes" in run(capsys, "inspect", path).out


def test_inspect_of_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "inspect", tmp_path)
    message = f"{tmp_path} is no qcompile artifact: it has no manifest.json"
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "targets").out
    assert [line.split()[0] for line in found.splitlines()] == ["target", *targets.TARGETS]
    found = run(capsys, "formats").out
    rows = [line.split()[0] for line in found.splitlines()[1:] if line[0] != " "]
    assert rows[: rows.index("kernels:")] == [
        *(*FORMATS, *BLOCK_FORMATS, IROOTS, *PALETTES, *DECODED_ONLY)
    ]
    assert rows[rows.index("softmax") :] == ["softmax", *SOFTMAX, "softmax:"]
    found = run(capsys, "passes").out
    stages = [line.split()[0] for line in found.splitlines()[1:]]
    assert list(dict.fromkeys(stages)) == ["normalise", "transform", "lower"]
    for command, count in (
        ("targets", len(targets.TARGETS)),
        (
            "formats",
            len(FORMATS) + len(BLOCK_FORMATS) + len({*PALETTES, *DECODED_ONLY}) + 1 + len(SOFTMAX),
        ),
        ("passes", len(stages)),
    ):
        listed = json.loads(run(capsys, command, "--json").out)
        assert len(listed) == count and all(row["name"] for row in listed)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version").out == f"qcompile {qcompile.__version__}\n"
    for arguments in ([], ["--help"]):
        result = run(capsys, *arguments)
        assert result.code == 0
        assert all(command in result.out for command in cli.COMMANDS)


def test_sqnr_below_the_limit(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, model, "--preset", "w2a16", "--min-sqnr", "60")
    lines = result.err.splitlines()
    assert (result.code, lines[0]) == (3, "error: verification failed; nothing was written")
    assert lines[1].endswith(" dB; --min-sqnr asks for 60")
    assert names(Path()) == ["data.npz", "m.onnx"]
    assert run(capsys, model, "--preset", "w8a16", "--min-sqnr", "30", "--quiet").code == 0
