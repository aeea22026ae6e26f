# SPDX-License-Identifier: Apache-2.0
"""What lies on disk: equal bytes for equal input, aligned weights, a manifest that is checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qcompile
from qcompile import artifact as artifacts
from qcompile import runtime_ops
from qcompile.artifact import Artifact, plain
from qcompile.errors import InputError
from tests.pipeline.nets import Net, cnn, mlp, samples

PLAIN_RUN = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(sys.argv[1] + "/libqcompile_ops.so")
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options)
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Artifact:
    return qcompile.compile(mlp().save(tmp_path / "m.onnx"))


def large() -> Net:
    """Weights of more and of less than 64 KiB when packed."""
    net = Net()
    x = net.linear(net.input("x", ["batch", 256]), 256, 512, "wide", relu=True)
    x = net.linear(x, 512, 300, "middle", relu=True)
    net.linear(x, 300, 7, "y")
    net.output("y", ["batch", 7])
    return net


@pytest.mark.parametrize("preset", ["w4a8", "w4a8-dynamic", "w3a16"])
@pytest.mark.parametrize("make", [cnn, large])
def test_equal_bytes(
    preset: str, make: Callable[[], Net], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, in other folders and with other numbers of threads, differ in `measured` only."""
    found = []
    for threads in (1, 1, 4):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        plain_options = ort.SessionOptions

        def options(count: int = threads, make: Any = plain_options) -> ort.SessionOptions:
            made = make()
            made.intra_op_num_threads = count
            return made

        with monkeypatch.context() as patch:
            patch.setattr(ort, "SessionOptions", options)
            made = qcompile.compile(
                make().save(folder / "m.onnx"),
                recipe=qcompile.Recipe(preset=preset),
                calibration_data=samples(make()),
            )
        manifest = json.loads((made.folder / "manifest.json").read_text())
        data = [p.read_bytes() for p in sorted(made.folder.glob("model.onnx*"))]
        found.append((json.dumps(manifest["content"]), *data))
    assert found[0] == found[1] == found[2]


def test_offsets(tmp_path: Path) -> None:
    made = qcompile.compile(
        large().save(tmp_path / "m.onnx"), recipe=qcompile.Recipe(preset="w8a8-dynamic")
    )
    model = onnx.load(made.folder / "model.onnx", load_external_data=False)
    found = []
    for tensor in model.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            assert entries["location"] == "model.onnx.data"
            found.append((int(entries["offset"]), int(entries["length"])))
        else:
            assert len(tensor.raw_data) <= 1024
    pages = [offset for offset, length in found if length >= 64 << 10]
    lines = [offset for offset, length in found if length < 64 << 10]
    assert pages and all(offset % 4096 == 0 for offset in pages)
    assert lines and all(offset % 64 == 0 for offset in lines)
    assert any(offset % 4096 for offset in lines)  # small models do not grow
    end = max(offset + length for offset, length in found)
    assert end == (made.folder / "model.onnx.data").stat().st_size


def test_plain_onnxruntime_runs_it(compiled: Artifact) -> None:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(compiled.folder / "libqcompile_ops.so"))
    session = ort.InferenceSession(compiled.folder / "model.onnx", options)
    feed = samples(mlp())
    (found,) = session.run(None, feed)
    (expected,) = qcompile.load(compiled.folder).run(None, feed)
    assert np.array_equal(found, expected)


def test_installed_library_unless_trusted(
    compiled: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[str] = []

    class Options(ort.SessionOptions):
        def register_custom_ops_library(self, path: str) -> None:
            registered.append(path)
            super().register_custom_ops_library(path)

    monkeypatch.setattr(ort, "SessionOptions", Options)
    feed = samples(mlp())
    first = qcompile.load(compiled.folder, threads=1).run(None, feed)
    second = qcompile.load(compiled.folder, trust_library=True).run(None, feed)
    copy = compiled.folder.absolute() / "libqcompile_ops.so"
    assert registered == [str(runtime_ops.library_path()), str(copy)]
    assert np.array_equal(first[0], second[0])


def test_library_of_another_abi(compiled: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.runtime_ops, "ABI", 7)
    with pytest.raises(InputError) as caught:
        qcompile.load(compiled.folder)
    assert str(caught.value) == (
        f"{compiled.folder} needs op library ABI 1; this qcompile has 7: "
        "compile it again, or load it with trust_library=True"
    )
    qcompile.load(compiled.folder, trust_library=True)


def test_round_trip(compiled: Artifact) -> None:
    again = Artifact.read(compiled.folder)
    assert again.content == plain(compiled.content)
    assert again.measured == plain(compiled.measured)
    before = (compiled.folder / "manifest.json").read_bytes()
    again.write_manifest()
    assert (compiled.folder / "manifest.json").read_bytes() == before


def edit(*keys: str | int, value: Any = None) -> Callable[[Any], Any]:
    """A change of one place of the manifest; without a value the key goes."""

    def change(data: Any) -> Any:
        inner = data
        for key in keys[:-1]:
            inner = inner[key]
        if value is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        return data

    return change


AGAIN = ": compile the model again"
DAMAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "list": (lambda data: [], '{path} is damaged: it has no "content"' + AGAIN),
    "content": (edit("content"), '{path} is damaged: it has no "content"' + AGAIN),
    "measured": (
        edit("measured"),
        '{path} is damaged: it has no "measured" or no "manifest_version"' + AGAIN,
    ),
    "version": (
        edit("manifest_version", value=9),
        "{path} has manifest version 9; this qcompile reads 1" + AGAIN,
    ),
    "files": (
        edit("content", "files", value=["model.onnx"]),
        '{path} is damaged: content has no "files"' + AGAIN,
    ),
    "no model": (
        edit("content", "files", "model.onnx"),
        "{path} is damaged: files has no model.onnx" + AGAIN,
    ),
    "no size": (
        edit("content", "files", "model.onnx", "bytes"),
        "{path} is damaged: model.onnx has no bytes or no sha256" + AGAIN,
    ),
    "library outside": (
        edit("content", "library", "file", value="../evil.so"),
        "{path} is damaged: the library ../evil.so is not among its files" + AGAIN,
    ),
    "library of another kind": (
        edit("content", "library", "file", value={}),
        "{path} is damaged: the library {{}} is not among its files" + AGAIN,
    ),
    "file outside": (
        edit("content", "files", "../evil.so", value={"bytes": 1, "sha256": ""}),
        "{folder}: ../evil.so of the manifest does not exist",
    ),
    "no library": (
        edit("content", "library"),
        '{path} is damaged: content has no "library"' + AGAIN,
    ),
    "a word for a number": (
        edit("content", "nodes", 0, "elements", value="x"),
        '{path} is damaged: content.nodes[0].elements is "x"' + AGAIN,
    ),
    "size": (
        edit("content", "files", "model.onnx", "bytes", value=5),
        "{folder}/model.onnx has {size} bytes; the manifest says 5" + AGAIN,
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_manifest(damage: str, compiled: Artifact) -> None:
    change, message = DAMAGES[damage]
    path = compiled.folder / "manifest.json"
    (compiled.folder.parent / "evil.so").write_bytes(b"x")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    size = (compiled.folder / "model.onnx").stat().st_size
    for trusted in (False, True):
        with pytest.raises(InputError) as caught:
            qcompile.load(compiled.folder, trust_library=trusted)
        expected = message.format(path=path, folder=compiled.folder, size=size)
        assert str(caught.value) == expected


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"null"])
def test_manifest_that_is_no_json(text: bytes, compiled: Artifact) -> None:
    path = compiled.folder / "manifest.json"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        qcompile.load(compiled.folder)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert str(caught.value).endswith(AGAIN)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "libqcompile_ops.so"])
def test_missing_file(name: str, compiled: Artifact) -> None:
    (compiled.folder / name).unlink()
    with pytest.raises(InputError) as caught:
        qcompile.load(compiled.folder)
    assert str(caught.value) == f"{compiled.folder}: {name} of the manifest does not exist"


def test_model_that_onnxruntime_refuses(compiled: Artifact) -> None:
    path = compiled.folder / "model.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(InputError) as caught:
        qcompile.load(compiled.folder)
    assert str(caught.value).startswith(f"{compiled.folder}: ONNX Runtime refuses the model: ")


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize("preset", ["w4a8-dynamic", "w8a4-dynamic", "w4a8", "w4a16"])
def test_a_sample_does_not_depend_on_its_neighbours(
    preset: str, make: Callable[[], Net], tmp_path: Path
) -> None:
    net = make()
    made = qcompile.compile(
        net.save(tmp_path / "m.onnx"),
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=samples(net),
    )
    session = qcompile.load(made.folder)
    x = samples(net, 7, seed=5)["x"]
    x[3] *= 1000
    (together,) = session.run(None, {"x": x})
    alone = [session.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))]
    if preset != "w4a16":  # a float product may be summed in another order
        assert np.array_equal(together, np.concatenate(alone))
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=spread(together))


def spread(y: np.ndarray) -> float:
    """Roundings of sums of 64 terms through three products (N14)."""
    return float(3 * (64 + 4) * 2.0**-23 * np.abs(y).max() * 64)
