# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures as calibration data."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile.data import read_data
from qcompile.errors import InputError
from tests.cli.run import names, run
from tests.pipeline.nets import Net, cnn, mlp

Image = pytest.importorskip("PIL.Image")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(folder: Path, count: int = 5, size: tuple[int, int] = (8, 8)) -> list[NDArray]:
    """Random pictures [H, W, 3], written without loss."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    made = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    for i, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "labels.txt").write_text("no picture")
    return made


def inputs_of(*dims: int | str, dtype: int = onnx.TensorProto.FLOAT) -> list:
    """The inputs of a model that takes one array."""
    net = Net()
    net.node("Identity", [net.input("image", list(dims), dtype)], "y")
    net.output("y", list(dims), dtype)
    return list(ir.from_proto(net.proto()).graph.inputs)


def read(source: qcompile.ImageFolder, inputs: list, limit: int = 99) -> NDArray:
    """All samples in one array."""
    return np.concatenate([feed["image"] for feed in read_data(source, inputs, limit).feeds])


def test_pixels_are_scaled_shifted_and_divided(tmp_path: Path) -> None:
    made = np.stack(pictures(tmp_path / "x")).astype(np.float32)
    expected = ((made / 255 - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    folder = qcompile.ImageFolder(tmp_path / "x", mean=MEAN, std=STD)
    found = read(folder, inputs_of("n", 3, 8, 8))
    assert found.shape == (5, 3, 8, 8) and found.dtype == np.float32
    # Three roundings of float32 on numbers below 3, each half a step of 2^-22.
    assert np.abs(found - expected).max() <= 3 * 2.0**-22 / min(STD)
    assert np.abs(found[:, ::-1] - expected).max() > 0.1
    assert len(read(folder, inputs_of("n", 3, 8, 8), limit=2)) == 2


def test_channels_last_and_reversed(tmp_path: Path) -> None:
    made = np.stack(pictures(tmp_path / "x")).astype(np.float32)
    folder = qcompile.ImageFolder(tmp_path / "x", mean=(104, 117, 123), scale=1, channels="bgr")
    expected = made[..., ::-1] - np.float32([104, 117, 123])
    np.testing.assert_array_equal(read(folder, inputs_of("n", 8, 8, 3)), expected)


def test_whole_numbers_stay(tmp_path: Path) -> None:
    made = np.stack(pictures(tmp_path / "x"))
    inputs = inputs_of("n", 8, 8, 3, dtype=onnx.TensorProto.UINT8)
    np.testing.assert_array_equal(read(qcompile.ImageFolder(tmp_path / "x"), inputs), made)
    with pytest.raises(InputError, match="leave out image mean, std and scale"):
        read(qcompile.ImageFolder(tmp_path / "x", mean=MEAN), inputs)


def test_grey_pictures_for_one_channel(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "x" / "a.png")
    found = read(qcompile.ImageFolder(tmp_path / "x", scale=1), inputs_of("n", 1, 8, 8))
    np.testing.assert_array_equal(found[0, 0], pixels)


def test_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    pictures(folder, 2, (16, 8))
    Image.fromarray(np.full((6, 12, 3), 255, np.uint8)).save(folder / "wide.png")
    fitted = read(qcompile.ImageFolder(folder), inputs_of("n", 3, 8, 8))
    assert fitted.shape == (3, 3, 8, 8) and (fitted[2] == 1).all()
    asked = read(qcompile.ImageFolder(folder, size=(4, 6)), inputs_of("n", 3, "h", "w"))
    assert asked.shape == (3, 3, 4, 6)
    own = read_data(qcompile.ImageFolder(folder), inputs_of("n", 3, "h", "w"), 9).feeds
    assert [feed["image"].shape[2:] for feed in own] == [(16, 8), (16, 8), (6, 12)]


def test_command_line_equals_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "x")
    path = cnn().save(tmp_path / "m.onnx")
    flags = ["--image-mean", ",".join(map(str, MEAN)), "--image-std", ",".join(map(str, STD))]
    source = ["--calibration-data", f"images:{tmp_path / 'x'}"]
    assert run(capsys, path, *source, *flags, "--quiet").code == 0
    folder = qcompile.ImageFolder(tmp_path / "x", mean=MEAN, std=STD)
    made = qcompile.compile(path, output=tmp_path / "p.qc", calibration_data=folder)
    found = qcompile.Artifact.read(tmp_path / "m.qc")
    assert found.content["files"] == made.content["files"]
    assert found.content["preset"] == "w8a8"


def test_bad_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(Path("x"), 1)
    Path("x/a.jpg").write_bytes(b"no picture")
    Path("x/b.png").write_bytes(Path("x/0.png").read_bytes()[:60])
    path = cnn().save(Path("m.onnx"))
    result = run(capsys, path, "--calibration-data", "images:x")
    first, second = result.err.splitlines()
    assert result.code == 2
    assert first.startswith("error: x/a.jpg: no readable picture: ")
    assert second.startswith("x/b.png: no readable picture: ")
    assert not [n for n in names(Path()) if ".qc" in n]


def test_model_that_takes_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "x", 1)
    path = mlp().save(tmp_path / "m.onnx")
    result = run(capsys, path, "--calibration-data", f"images:{tmp_path / 'x'}")
    assert (result.code, result.err) == (
        2,
        'error: images fit a model with one input of 4 dimensions; this one has "x" [batch,64]: '
        "give .npz files or MODULE:FUNCTION\n",
    )


def test_channels_that_pictures_lack(tmp_path: Path) -> None:
    pictures(tmp_path / "x", 1)
    with pytest.raises(InputError, match="images have 1 or 3 channels"):
        read(qcompile.ImageFolder(tmp_path / "x"), inputs_of("n", 4, 8, 8))


def test_pillow_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "x", 1)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError) as caught:
        qcompile.ImageFolder(tmp_path / "x").check()
    assert str(caught.value) == "images need pillow: pip install 'qcompile[images]'"
