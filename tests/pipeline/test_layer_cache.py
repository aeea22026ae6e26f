# SPDX-License-Identifier: Apache-2.0
"""An interrupted compilation goes on from the layers that it has; what does not fit is not read."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile import compensate as stage
from qcompile.errors import InputError
from tests.pipeline.nets import cnn, samples

# Compiles argv[1] to argv[2] with the cache argv[3], and is killed after argv[4] layers.
CHILD = """
import os, signal, sys
import qcompile
from qcompile import compensate as stage
from tests.pipeline.nets import cnn, samples
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
real, done = stage._Work._stored, []
def stored(*args):
    done.append(args)
    if len(done) > int(sys.argv[4]):
        os.kill(os.getpid(), int(sys.argv[5]))
    return real(*args)
stage._Work._stored = stored
qcompile.compile(
    sys.argv[1], output=sys.argv[2], recipe=qcompile.Recipe(preset="w4a8"),
    calibration_data=samples(cnn()), calibration_cache=sys.argv[3],
)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return cnn().save(tmp_path / "m.onnx")


def made(model: Path, **changes: object) -> qcompile.Artifact:
    """The model compiled with the cache c.npz beside it."""
    return qcompile.compile(
        model,
        recipe=qcompile.Recipe(**{"preset": "w4a8", **changes}),  # type: ignore[arg-type]
        calibration_data=samples(cnn()),
        calibration_cache=model.with_name("c.npz"),
        force=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """The artifact's files, but for the manifest, which has measured times."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the weights that are solved for."""
    found: list[str] = []
    real = stage._Work._arguments

    def arguments(self: stage._Work, site: stage.Site, *args: np.ndarray) -> tuple:
        found.append(site.weight.name or "")
        return real(self, site, *args)

    monkeypatch.setattr(stage._Work, "_arguments", arguments)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_compilation_goes_on(
    model: Path, tmp_path: Path, solved: list[str], number: int
) -> None:
    whole = qcompile.compile(
        model,
        output=tmp_path / "whole.qc",
        recipe=qcompile.Recipe(preset="w4a8"),
        calibration_data=samples(cnn()),
    )
    every = list(solved)
    assert len(every) >= 3
    out, cache = tmp_path / "m.qc", tmp_path / "c.npz"
    arguments = [str(model), str(out), str(cache), "2", str(int(number))]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        check=False,
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.returncode == -number or b"KeyboardInterrupt" in child.stderr
    assert not out.exists()
    kept = list((tmp_path / "c.npz.layers").glob("[!.]*"))
    assert len(kept) == 3  # the third is written, and not yet used, when the signal comes
    solved.clear()
    again = made(model)
    assert solved == every[3:]
    assert contents(again.folder) == contents(whole.folder)
    assert again.content["files"] == whole.content["files"]
    solved.clear()
    made(model)
    assert solved == []


@pytest.mark.parametrize(
    "changes", [{"preset": "w3a8"}, {"seed": 7}, {"weight_scale_method": "mse"}]
)
def test_layers_of_another_recipe_are_not_read(
    model: Path, solved: list[str], changes: dict[str, object]
) -> None:
    made(model, rotation="off")
    every = len(solved)
    solved.clear()
    made(model, rotation="off", **changes)
    # layers whose weight is as before, as the first and last are with another preset, are read
    assert len(solved) >= every - 2
    assert solved


@pytest.mark.parametrize("change", ["model", "data"])
def test_layers_of_another_model_or_data_are_not_read(
    model: Path, tmp_path: Path, solved: list[str], change: str
) -> None:
    """The folder is addressed by content: others' layers stay in it, and nobody reads them."""
    made(model)
    every, cache, layers = list(solved), tmp_path / "c.npz", tmp_path / "c.npz.layers"
    kept = {p.name for p in layers.iterdir()}
    other, given = model, samples(cnn())
    if change == "model":
        net = cnn()
        net.weights["stem.weight"][0, 0, 0, 0] += 2.0**-10
        other = net.save(tmp_path / "other.onnx")
    else:
        given["x"][0, 0, 0, 0] += 2.0**-10
    recipe = qcompile.Recipe(preset="w4a8")
    with pytest.raises(InputError, match=f"{cache} is for (another model|other calibration)"):
        qcompile.compile(
            *(other, "cpu", tmp_path / "o"),
            **{"recipe": recipe, "calibration_data": given, "calibration_cache": cache},
        )
    cache.unlink()
    found = []
    for name, cached in (("with", cache), ("without", None)):
        solved.clear()
        found.append(
            qcompile.compile(
                *(other, "cpu", tmp_path / name),
                **{"recipe": recipe, "calibration_data": given, "calibration_cache": cached},
            )
        )
        assert solved == every
    assert contents(found[0].folder) == contents(found[1].folder)
    assert kept < {p.name for p in layers.iterdir()}
    cache.unlink()
    solved.clear()
    made(model)
    assert solved == []  # the first model's own are still there


def test_layers_of_another_version_are_not_read(
    model: Path, solved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(model)
    every = list(solved)
    monkeypatch.setattr("qcompile.layer_cache.VERSION", "0.0.0")
    made(model)
    assert solved == every * 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """One bit in the middle: the zip's checksum tells."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def widen(path: Path) -> None:
    """Sound, but its codes have another shape."""
    with np.load(path) as loaded:
        arrays = dict(loaded)
    arrays["inputs"] = np.zeros((3, 1, 2), np.float32)
    np.savez(path, **arrays)


def pickle(path: Path) -> None:
    with np.load(path) as loaded:
        arrays = dict(loaded)
    arrays["errors"] = np.array([os.getpid, None], object)
    np.savez(path, **arrays, allow_pickle=True)


def swap(path: Path) -> None:
    """Another layer's file under this name."""
    other = next(p for p in path.parent.iterdir() if p != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, flip, widen, pickle, swap])
def test_damaged_layers_are_computed_again_with_a_note(
    model: Path,
    solved: list[str],
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = made(model)
    before = contents(first.folder)
    path = min((model.parent / "c.npz.layers").iterdir())
    solved.clear()
    damage(path)
    again = made(model)
    assert len(solved) == 1
    assert f"{path} is damaged" in caplog.text and "computed again" in caplog.text
    assert contents(again.folder) == before
    solved.clear()
    made(model)
    assert solved == []  # it has been replaced


def test_without_a_cache_nothing_is_written(model: Path) -> None:
    qcompile.compile(model, recipe=qcompile.Recipe(preset="w4a8"), calibration_data=samples(cnn()))
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.onnx", "m.qc"]
