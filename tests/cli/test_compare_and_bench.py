# SPDX-License-Identifier: Apache-2.0
"""compare and bench: two models side by side, and what cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.cli.run import run
from tests.pipeline.nets import cnn, mlp, samples


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", allow_pickle=False, **samples(mlp()))
    return mlp().save(Path("m.onnx"))


def test_compare(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, model, "--quiet")
    printed = run(capsys, "compare", model, "m.qc", "--data", "data.npz")
    assert printed.code == 0
    assert printed.out.splitlines()[0].split() == [
        *("output", "SQNR", "dB", "cosine", "top-1", "agreement"),
    ]
    assert printed.out.splitlines()[-1] == "8 samples"
    result = json.loads(run(capsys, "compare", model, "m.qc", "--data", "data.npz", "--json").out)
    assert result["outputs"][0]["name"] == "y" and result["outputs"][0]["sqnr_db"] > 30
    assert {name for name, _ in result["worst_nodes"]} <= {
        f"/{n}_product/MatMul" for n in ("first", "middle", "y")
    }


def test_compare_with_itself(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(run(capsys, "compare", model, model, "--data", "data.npz", "--json").out)
    row = {"name": "y", "sqnr_db": "inf", "cosine": 1.0, "top1": 1.0}
    assert {k: v for k, v in result["outputs"][0].items() if k != "cosine"} == {
        k: v for k, v in row.items() if k != "cosine"
    }


def test_compare_of_different_models(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = cnn()
    net.inputs[0].name = "x"
    net.outputs[0].name = "z"
    net.nodes[-1].output[0] = "z"
    other = net.save(Path("other.onnx"))
    result = run(capsys, "compare", model, other, "--data", "data.npz")
    message = "the models have different outputs: y and z"
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_compare_leaves_the_artifact_alone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, model, "--quiet")
    before = {p: p.stat().st_mtime_ns for p in Path("m.qc").iterdir()}
    Path("m.qc").chmod(0o555)
    assert run(capsys, "compare", model, "m.qc", "--data", "data.npz").code == 0
    assert {p: p.stat().st_mtime_ns for p in Path("m.qc").iterdir()} == before


def test_bench(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, model, "--quiet")
    result = run(capsys, "bench", "m.qc", "--vs", model, "--data", "data.npz")
    first, second, third = result.out.splitlines()
    assert first.startswith("m.qc: ") and first.endswith(" runs")
    assert second.startswith("m.onnx: ") and "× its speed (95 % interval " in second
    assert third == "inputs: x 1x64"
    assert run(capsys, "bench", model).code == 0
    refused = run(capsys, "bench", model, "--threads", "0")
    assert (refused.code, refused.err) == (2, "error: 0 threads: at least 1 is needed\n")


def test_bench_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, model, "--quiet")
    flags = ["--vs", model, "--shape", "x=7x64", "--seconds", "0.1", "--threads", "2", "--json"]
    found = json.loads(run(capsys, "bench", "m.qc", *flags).out)
    assert (found["path"], found["vs"], found["threads"]) == ("m.qc", "m.onnx", 2)
    assert found["shapes"] == {"x": [7, 64]}
    low, high = found["ratio_interval"]
    assert 0 < low <= found["ratio"] <= high and found["runs"] >= 5
    alone = json.loads(run(capsys, "bench", model, "--json").out)
    assert alone["vs"] is None and "ratio" not in alone and alone["compiled_ms"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shape", "z=1x64"], "shape z: no such input: known: x"),
        (["--shape", "x=1x63"], "shape x [1, 63]: the model takes [batch,64]"),
        (["--shape", "x=64"], "shape x [64]: the model takes [batch,64]"),
        (["--shape", "x"], "shape x: INPUT=1x3x224x224 is needed"),
        (["--shape", "x=1x-2"], "shape x=1x-2: INPUT=1x3x224x224 is needed"),
        (["--seconds", "-1"], "-1 seconds: 0 or more is needed"),
        (
            ["--shape", "x=1x64", "--data", "data.npz"],
            "--shape is for random data: leave out --data or --shape",
        ),
    ],
)
def test_bench_refuses(
    flags: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "bench", model, *flags)
    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")


def test_compare_of_other_shapes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = mlp()
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 3
    other = net.save(Path("other.onnx"))
    result = run(capsys, "compare", model, other, "--data", "data.npz")
    assert (result.code, result.out.splitlines()[-1]) == (0, "6 samples")
    net.inputs[0].type.tensor_type.elem_type = 11  # float64
    net.nodes.insert(0, helper.make_node("Cast", ["x"], ["x32"], "cast", to=1))
    for node in net.nodes[1:]:
        node.input[:] = ["x32" if name == "x" else name for name in node.input]
    result = run(capsys, "compare", model, net.save(Path("wide.onnx")), "--data", "data.npz")
    message = (
        "input \"x\" is tensor(float) ['batch', 64] in the first model and "
        "tensor(double) [3, 64] in the second"
    )
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_compare_of_two_artifacts(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, model, "--quiet")
    run(capsys, model, "--quiet", "--preset", "w4a16", "-o", "other.qc")
    pairs = [("m.qc", "other.qc"), ("other.qc", model), ("m.qc", "m.qc")]
    sqnr = []
    for pair in pairs:
        result = run(capsys, "compare", *pair, "--data", "data.npz", "--json", "--num-samples", 4)
        found = json.loads(result.out)
        assert found["num_samples"] == 4
        sqnr.append(found["outputs"][0]["sqnr_db"])
    assert 5 < sqnr[0] < 60 and 5 < sqnr[1] < 60 and sqnr[2] == "inf"
