# SPDX-License-Identifier: Apache-2.0
"""Every family of presets compiles and verifies, and what is asked is what is made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qcompile
from models import charlm, digits
from models.files import open_session
from qcompile.errors import InputError
from qcompile.recipe import Preset, preset_names
from tests.pipeline.nets import Net, cnn, mlp, samples, tied

NETS: dict[str, Callable[[], Net]] = {"mlp": mlp, "cnn": cnn, "tied": tied}
FAMILIES = (
    *("w8a8", "w4a8", "w3a8", "w2a4", "w1a8", "w4a4", "w7a6"),
    *("w8a8-dynamic", "w4a8-dynamic", "w3a8-dynamic", "w1a8-dynamic", "w4a4-dynamic"),
    *("w8a16", "w5a16", "w4a16", "w2a16", "w1a16"),
)
RUNGS = ("emit", "normalise", "transform", "lower", "pack", "end to end")


def made(name: str, preset: str, folder: Path, target: str = "cpu") -> qcompile.Artifact:
    """The net compiled with calibration data."""
    net = NETS[name]()
    return qcompile.compile(
        net.save(folder / f"{name}.onnx"),
        target,
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=samples(net),
    )


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        *((n, p) for n in ("mlp", "cnn") for p in ("w2a8", "w2a8-dynamic")),
        *(pytest.param("tied", p, marks=pytest.mark.slow) for p in ("w2a8", "w2a8-dynamic")),
        *(pytest.param(n, "w2a16", marks=pytest.mark.slow) for n in ("mlp", "tied")),
    ],
)
@pytest.mark.parametrize(("word", "block"), [("ternary", 160), ("balanced2", 32)])
def test_formats_of_three_and_five_levels(
    name: str, preset: str, word: str, block: int, tmp_path: Path
) -> None:
    """In blocks where they may be; no target but cpu has kernels."""
    net = NETS[name]()
    path, recipe = net.save(tmp_path / "m.onnx"), qcompile.Recipe(preset, weight_format=word)
    artifact = qcompile.compile(path, recipe=recipe, calibration_data=samples(net))
    assert not artifact.measured["skipped"]
    rows = [r for r in artifact.content["nodes"] if r["weight"] is not None]
    specs = {r["weight"] for r in rows}
    assert specs <= {f"{word}/axis(axis=0)/sym/f32", f"{word}/block(axis=1,size={block})/sym/f16"}
    assert len(rows) == len(artifact.content["nodes"])
    with pytest.raises(InputError, match="no kernel"):
        qcompile.compile(path, "ort", recipe=recipe, calibration_data=samples(net), force=True)


@pytest.mark.parametrize("preset", FAMILIES)
@pytest.mark.parametrize("name", NETS)
def test_cpu(name: str, preset: str, tmp_path: Path) -> None:
    artifact = made(name, preset, tmp_path)
    checks = artifact.measured["checks"]
    assert all(c["passed"] for c in checks)
    is_rotated = any(row["is_applied"] for row in artifact.content["rotations"])
    expected = {*RUNGS, "rotate"} if is_rotated else set(RUNGS)
    assert {c["rung"].split(":")[0] for c in checks} == expected
    assert not artifact.measured["skipped"]
    assert not artifact.measured["synthetic_data"]
    parsed = Preset.parse(preset)
    for row in artifact.content["nodes"]:
        if row["weight"] is None:
            assert row["op"] == "Conv" and parsed.activation == "float"
            continue
        edge = "edge-bits" in row["decided_by"]
        bits = 8 if edge else parsed.weight_bits
        names = {f"int{bits}", f"uint{bits}"} if bits > 1 else {"binary"}
        assert row["weight"].split("/")[0] in names
        assert (row["activation"] is None) == (
            row["op"] == "Gather" or parsed.activation == "float"
        )
        if row["activation"] is not None:
            sign = "int" if parsed.activation == "dynamic" else "uint"
            is_wide = edge and parsed.activation == "static"
            wanted = 8 if is_wide else parsed.activation_bits
            assert row["activation"].startswith(f"{sign}{wanted}/")


@pytest.mark.parametrize("preset", ["w8a8", "w4a8-dynamic", "w4a16", "w2a16"])
@pytest.mark.parametrize("name", NETS)
def test_ort(name: str, preset: str, tmp_path: Path) -> None:
    artifact = made(name, preset, tmp_path, "ort")
    assert artifact.content["library"] is None
    assert not list(artifact.folder.glob("*.so"))
    assert qcompile.load(artifact.folder).get_outputs()[0].name == "y"


@pytest.mark.slow
@pytest.mark.parametrize("preset", preset_names())
def test_every_preset(preset: str, tmp_path: Path) -> None:
    assert made("mlp", preset, tmp_path).content["preset"] == preset


def test_fewer_bits_are_less_exact(tmp_path: Path) -> None:
    sqnr = []
    for bits in (8, 6, 4, 3, 2):
        recipe = qcompile.Recipe(preset=f"w{bits}a16", edge_bits=bits)
        path = mlp().save(tmp_path / "m.onnx")
        artifact = qcompile.compile(path, recipe=recipe, output=tmp_path / str(bits))
        sqnr.append(artifact.measured["sqnr_db"])
    assert sqnr == sorted(sqnr, reverse=True)
    # A bit of an even spread is worth 6 dB.
    assert 30 < sqnr[0] - sqnr[-1] < 6 * 7


def test_default_preset(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "m.onnx")
    without = qcompile.compile(path, output=tmp_path / "a")
    given = qcompile.compile(path, output=tmp_path / "b", calibration_data=samples(mlp()))
    assert (without.content["preset"], given.content["preset"]) == ("w8a8-dynamic", "w8a8")
    assert without.content["notes"] == [
        "preset w8a8-dynamic was chosen because no calibration data was given"
    ]


@pytest.mark.parametrize("preset", ["w8a8", pytest.param("w4a8", marks=pytest.mark.slow)])
def test_digits(preset: str, tmp_path: Path) -> None:
    images, _ = digits.data("calibration")
    artifact = qcompile.compile(
        digits.path(),
        output=tmp_path / "digits.qc",
        recipe=qcompile.Recipe(preset=preset),
        calibration_data={"image": images[:64]},
        limits=qcompile.Limits(max_drop=2.0),
        metric=digits.accuracy,
    )
    metric = artifact.measured["metric"]
    assert metric["float"] == digits.accuracy(open_session(digits.path()))
    assert metric["drop"] == metric["float"] - metric["compiled"] <= 2.0
    assert artifact.content["coverage"] == 1.0


def test_charlm(tmp_path: Path) -> None:
    artifact = qcompile.compile(
        charlm.path(),
        output=tmp_path / "charlm.qc",
        recipe=qcompile.Recipe(preset="w4a8-dynamic", num_calibration_samples=2),
        calibration_data={"tokens": charlm.data("calibration")[:2]},
    )
    assert artifact.content["coverage"] == 1.0
    assert artifact.model_bytes < charlm.path().stat().st_size / 4


def test_largest_drop_needs_a_metric(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        qcompile.compile(tmp_path / "m.onnx", limits=qcompile.Limits(max_drop=1))
    assert str(caught.value) == (
        "a largest drop needs a metric: qcompile.compile(…, metric=function of a session)"
    )


def test_largest_drop(tmp_path: Path) -> None:
    scores = iter([0.9, 0.85])
    with pytest.raises(qcompile.QcompileError) as caught:
        qcompile.compile(
            mlp().save(tmp_path / "m.onnx"),
            limits=qcompile.Limits(max_drop=0.01),
            metric=lambda session: next(scores),
        )
    assert (caught.value.exit_code, str(caught.value)) == (
        3,
        "verification failed; nothing was written\n"
        "  the metric drops by 0.05; --max-drop allows 0.01",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_metric_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(qcompile.QcompileError, match="the metric drops by nan"):
        qcompile.compile(
            mlp().save(tmp_path / "m.onnx"),
            limits=qcompile.Limits(max_drop=0.01),
            metric=lambda session: float("nan"),
        )


def test_no_float_output_to_measure(tmp_path: Path) -> None:
    net = mlp()
    net.node("ArgMax", ["y"], "best", axis=1, keepdims=0)
    net.outputs = []
    net.output("best", ["batch"], 7)
    path = net.save(tmp_path / "m.onnx")
    assert qcompile.compile(path).measured["sqnr_db"] is None
    with pytest.raises(qcompile.QcompileError) as caught:
        qcompile.compile(path, force=True, limits=qcompile.Limits(min_sqnr=20))
    assert str(caught.value) == (
        "verification failed; nothing was written\n"
        "  --min-sqnr asks for 20 dB, and no output is a float to measure"
    )


def test_zero_samples_at_once(tmp_path: Path) -> None:
    for name in NETS:
        session = qcompile.load(made(name, "w4a8", tmp_path).folder)
        value = session.get_inputs()[0]
        shape = [0, *(d if isinstance(d, int) else 3 for d in value.shape[1:])]
        dtype = np.float32 if "float" in value.type else np.int64
        (y,) = session.run(None, {value.name: np.zeros(shape, dtype)})
        assert y.shape[0] == 0
