# SPDX-License-Identifier: Apache-2.0
"""Whole compilations with rotation: what the artifact says, and that it is better for it."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile.artifact import Artifact
from qcompile.errors import InputError
from tests.cli.run import run
from tests.passes.stages import with_weights
from tests.rotation_nets import GPT, LLAMA, outlier_channel, tokens


def saved(folder: Path, text: str) -> Path:
    path = folder / "net.onnx"
    ir.save(outlier_channel(text), path)
    return path


def compiled(path: Path, out: str, preset: str, target: str = "cpu", **recipe: object) -> Artifact:
    chosen = qcompile.Recipe(preset=preset, edge_bits=4, **recipe)  # type: ignore[arg-type]
    data = [tokens(16, 12, seed) for seed in (0, 1)]
    return qcompile.compile(path, target, path.with_name(out), recipe=chosen, calibration_data=data)


@pytest.mark.parametrize("text", [LLAMA, GPT], ids=["llama", "gpt"])
def test_the_artifact_is_better_and_says_why(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, text)
    plain = compiled(path, "off", "w4a4-dynamic", rotation="off")
    turned = compiled(path, "on", "w4a4-dynamic")
    assert plain.content["rotations"] == []
    row = turned.content["rotations"][0]
    assert row["kind"] == "residual stream" and row["is_applied"]
    assert row["after"]["sqnr_db"] > row["before"]["sqnr_db"]
    assert "rotate" in {c["rung"] for c in turned.measured["checks"]}
    assert "rotate" not in {c["rung"] for c in plain.measured["checks"]}
    assert turned.measured["sqnr_db"] > plain.measured["sqnr_db"]
    assert Artifact.read(turned.folder).content["rotations"] == turned.content["rotations"]


@pytest.mark.parametrize(
    ("preset", "target"),
    [("w4a4", "cpu"), ("w4a16", "cpu"), ("w4a16", "ort"), ("w3a8-dynamic", "cpu")],
)
def test_every_kind_of_activation_compiles(tmp_path: Path, preset: str, target: str) -> None:
    made = compiled(saved(tmp_path, LLAMA), "on", preset, target)
    assert made.content["rotations"][0]["before"] is not None


def behind_a_function(folder: Path) -> Path:
    """Two products read what Tanh and a factor for each channel made; one factor is much larger."""
    text = """f (float[b,24] x, float u, float w, float v, float g) => (float[b,32] y)
      { m = MatMul (x, u)  t = Tanh (m)  h = Mul (t, g)
        a = MatMul (h, w)  c = MatMul (h, v)  d = Mul (a, c)  y = Relu (d) }"""
    net = with_weights(text, 0, u=(24, 40), w=(40, 32), v=(40, 32), g=(40,))
    factors = np.ones(40, np.float32)
    factors[[3, 17]] = 40
    net.graph.initializers["g"].const_value = ir.tensor(factors, name="g")
    ir.save(net, folder / "net.onnx")
    return folder / "net.onnx"


def compiled_behind_a_function(folder: Path, rotation: str, preset: str, target: str) -> Artifact:
    x = np.random.default_rng(0).standard_normal((64, 24)).astype(np.float32)
    recipe = qcompile.Recipe(preset=preset, edge_bits=4, rotation=rotation, effort="quick")
    path, out = behind_a_function(folder), folder / rotation
    return qcompile.compile(path, target, out, recipe=recipe, calibration_data=[{"x": x}])


def test_several_readers_of_a_function_share_a_node(tmp_path: Path) -> None:
    made = compiled_behind_a_function(tmp_path, "auto", "w4a4-dynamic", "cpu")
    row = next(row for row in made.content["rotations"] if row["is_applied"])
    assert row["is_online"] and len(row["readers"]) == 2
    assert [node.op_type for node in made.model().graph].count("Hadamard") == 1
    assert "lower: rotations" in {check["rung"] for check in made.measured["checks"]}
    off = compiled_behind_a_function(tmp_path, "off", "w4a4-dynamic", "cpu")
    assert made.measured["sqnr_db"] > off.measured["sqnr_db"]


def test_target_ort_keeps_standard_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompile.rotate.ONLINE_GAIN", -100.0)  # 8-bit inputs gain nothing
    monkeypatch.setattr("qcompile.rotate.ENOUGH_DB", 100.0)
    made = compiled_behind_a_function(tmp_path, "auto", "w4a8-dynamic", "ort")
    assert any(row["is_applied"] and row["is_online"] for row in made.content["rotations"])
    nodes = list(made.model().graph)
    assert [node.op_type for node in nodes].count("Split") == 4  # of both inputs
    assert all(node.domain != "com.qcompile" for node in nodes)


@pytest.mark.slow
def test_two_compilations_are_equal_and_eight_bits_are_as_without(tmp_path: Path) -> None:
    path = saved(tmp_path, LLAMA)
    first, again = (compiled(path, n, "w4a4-dynamic").content["files"] for n in ("a", "b"))
    assert first == again
    eight, off = (
        compiled(path, n, "w8a8-dynamic", rotation=n).content["files"] for n in ("auto", "off")
    )
    assert eight == off


def test_a_calibration_cache_of_another_rotation_is_refused(tmp_path: Path) -> None:
    path, cache = saved(tmp_path, LLAMA), tmp_path / "cache.npz"
    data = [tokens(16, 12)]
    for number in (0, 1):
        qcompile.compile(
            path,
            output=tmp_path / f"out{number}",
            recipe=qcompile.Recipe(preset="w4a4", edge_bits=4, effort="quick"),
            calibration_data=data,
            calibration_cache=cache,
        )
    with pytest.raises(InputError, match="is for another choice of nodes or activations"):
        qcompile.compile(
            path,
            output=tmp_path / "out2",
            recipe=qcompile.Recipe(preset="w4a4", edge_bits=4, effort="quick", rotation="off"),
            calibration_data=data,
            calibration_cache=cache,
        )


def test_the_command_line_has_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, LLAMA)
    np.savez(tmp_path / "data.npz", **tokens(16))
    flags = [str(path), "--preset", "w4a4-dynamic", "--calibration-data", f"{tmp_path}/data.npz"]
    shown = run(capsys, *flags, "--dry-run").out
    assert "residual stream" in shown and "the error on the calibration data decides" in shown
    assert "residual stream" not in run(capsys, *flags, "--dry-run", "--rotation", "off").out
    planned = json.loads(run(capsys, *flags, "--dry-run", "--json").out)["rotations"]
    kinds = [row["kind"] for row in planned]
    assert kinds == ["residual stream", "attention values", "linear", *3 * ["norm output"]]
    wrong = run(capsys, *flags, "--rotation", "of")
    assert wrong.code == 2
    assert wrong.err == 'error: unknown rotation "of": did you mean "off"?\n'
    made = run(capsys, *flags, "--edge-bits", "4", "-o", f"{tmp_path}/out")
    assert made.code == 0 and "rotated" in made.out
    assert "hadamard 32, 2 rounds" in run(capsys, "inspect", f"{tmp_path}/out").out


@pytest.mark.parametrize(
    ("name", "text"),
    [("r.yaml", "rotation: off\n"), ("r.yml", 'rotation: "off"\n'), ("r.toml", 'rotation = "off"')],
)
def test_a_recipe_has_the_key(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert qcompile.Recipe.read(tmp_path / name).rotation == "off"
    (tmp_path / name).write_text(text.replace("rotation", "rotatoin"))
    with pytest.raises(InputError, match='unknown key "rotatoin": did you mean "rotation"'):
        qcompile.Recipe.read(tmp_path / name)
