# SPDX-License-Identifier: Apache-2.0
"""The calibration cache: the same artifact from it; refused for all that it does not fit."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qcompile
from qcompile import calibration_cache
from qcompile.errors import InputError
from qcompile.passes.transform.stats import Stats
from tests.pipeline.nets import cnn, samples

CURE = ": remove it, or give another --calibration-cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return cnn().save(tmp_path / "m.onnx")


def made(model: Path, **changes: object) -> qcompile.Artifact:
    """The model compiled with the cache c.npz beside it."""
    recipe = qcompile.Recipe(**{"preset": "w8a8", **changes})  # type: ignore[arg-type]
    return qcompile.compile(
        model,
        recipe=recipe,
        calibration_data=samples(cnn()),
        calibration_cache=model.with_name("c.npz"),
        force=True,
    )


def refused(model: Path, **changes: object) -> str:
    """Why the cache does not fit, without its name and the cure."""
    with pytest.raises(InputError) as caught:
        made(model, **changes)
    text = str(caught.value)
    start = f"calibration cache {model.with_name('c.npz')} "
    assert text.startswith(start) and text.endswith(CURE)
    return text.removeprefix(start).removesuffix(CURE)


def test_the_artifact_is_the_same(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(model)
    monkeypatch.setattr(calibration_cache, "run_calibration", None)  # not called again
    assert made(model).content == first.content


def test_weights_may_change(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(model)
    monkeypatch.setattr(calibration_cache, "run_calibration", None)
    found = made(model, preset="w4a8", rotation="off")  # others than at w8a8 change values
    assert found.content["preset"] == "w4a8"


def test_an_interrupted_compilation_goes_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("qcompile.emit.shutil.copyfile", None)
        with pytest.raises(TypeError):
            made(model)
    assert sorted(p.name for p in model.parent.iterdir()) == ["c.npz", "c.npz.layers", "m.onnx"]
    monkeypatch.setattr(calibration_cache, "run_calibration", None)
    assert made(model).content["coverage"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration_method": "mse"}, "has ranges by the default of each format; mse was asked"),
        (
            {"calibration_method": "percentile", "calibration_percentile": 99.0},
            "has ranges by the default of each format; percentile 99 was asked",
        ),
        ({"num_calibration_samples": 3}, "is for other calibration samples"),
        (
            {"preset": "w8a4"},
            "is for another choice of nodes or activations (preset, recipe, target)",
        ),
        ({"bias_correction": False}, "is for another recipe"),
    ],
)
def test_refused(changes: dict[str, object], message: str, model: Path) -> None:
    made(model)
    assert refused(model, **changes) == message


def test_another_model(model: Path) -> None:
    made(model)
    other = onnx.load(model)
    other.producer_name = "another exporter"
    onnx.save(other, model)
    assert refused(model) == "is for another model, or the model has changed since"


@pytest.mark.parametrize("damage", ["no zip", "cut short", "no key", "a future one"])
def test_damaged(damage: str, model: Path) -> None:
    made(model)
    path = model.with_name("c.npz")
    if damage == "no zip":
        path.write_bytes(b"ranges")
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "no key":
        np.savez(path, x=np.zeros(3))
    else:
        np.savez(path, key=np.array('{"version": 99}'))
    with pytest.raises(InputError) as caught:
        made(model)
    message = str(caught.value).removeprefix(f"calibration cache {path} ")
    if damage == "a future one":
        assert message == f"was written by another version of qcompile{CURE}"
    else:
        assert message == "is damaged or no cache: give another --calibration-cache"


def test_folder_that_does_not_exist(model: Path) -> None:
    with pytest.raises(InputError, match="its folder does not exist"):
        qcompile.compile(
            model, calibration_data=samples(cnn()), calibration_cache=model.parent / "no" / "c.npz"
        )


def test_everything_calibration_finds_is_kept(tmp_path: Path, model: Path) -> None:
    key = {"version": 1}
    made(model)
    cache = calibration_cache.CalibrationCache(model.with_name("c.npz"), "", "")
    _, stats = cache.read()
    copy = dataclasses.replace(cache, path=tmp_path / "d.npz")
    copy.write(key, stats)
    found, again = copy.read()
    assert found == key
    assert stats.ranges == again.ranges and stats.ranges
    assert list(stats.means) == list(again.means) and stats.means
    assert all(np.array_equal(stats.means[n], again.means[n]) for n in stats.means)


def test_calibration_finds_nothing_else(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    real = calibration_cache.run_calibration

    def seen(*args: Any) -> Stats:
        found.append(real(*args))
        return found[0]

    monkeypatch.setattr(calibration_cache, "run_calibration", seen)
    made(model)
    filled = {f.name for f in dataclasses.fields(found[0]) if getattr(found[0], f.name)}
    assert filled == set(calibration_cache.KEPT)
