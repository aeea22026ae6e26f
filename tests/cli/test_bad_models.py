# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be compiled: exit code 2, one message, nothing written."""

import json
from pathlib import Path

import onnx
import pytest

from tests.cli.bad_models import CASES, truncated
from tests.cli.run import names, run
from tests.pipeline.nets import Net, mlp


@pytest.mark.parametrize("case", CASES)
def test_message(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = CASES[case]
    monkeypatch.chdir(tmp_path)
    make(Path("m.onnx"))
    before = names(tmp_path)
    result = run(capsys, "m.onnx", "-o", "deep/er/out.qc")
    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")
    assert names(tmp_path) == before


def test_truncated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    truncated(path)
    result = run(capsys, path)
    size = path.stat().st_size
    message = f"{path} is not an ONNX model, or it is truncated ({size} bytes could not be parsed)"
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_artifact_is_no_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = mlp().save(tmp_path / "m.onnx"), tmp_path / "m.qc"
    assert run(capsys, path, "--quiet").code == 0
    result = run(capsys, out / "model.onnx", "-o", tmp_path / "again.qc")
    message = f"{out / 'model.onnx'} is compiled already: give the float model it was made from"
    assert (result.code, result.err) == (2, f"error: {message}\n")


class TestExternalData:
    """Weights in other files."""

    def save(self, folder: Path, **changes: object) -> Path:
        """An mlp whose first weight's external entry is changed."""
        path = folder / "m.onnx"
        onnx.save(
            mlp().proto(), path, save_as_external_data=True, location="m.data", size_threshold=0
        )
        model = onnx.load(path, load_external_data=False)
        tensor = next(t for t in model.graph.initializer if t.name == "first.weight")
        entries = {e.key: e.value for e in tensor.external_data}
        del tensor.external_data[:]
        for key, value in (entries | changes).items():
            tensor.external_data.add(key=key, value=str(value))
        path.write_bytes(model.SerializeToString())
        return path

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"location": "gone.data"}, "is in gone.data, which does not exist"),
            ({"location": "../m.data"}, "is in ../m.data, outside the model's folder"),
            ({"location": "/etc/passwd"}, "is in /etc/passwd, outside the model's folder"),
            ({"location": "link.data"}, "is in link.data, outside the model's folder"),
            (
                {"offset": 40960},
                "needs bytes 40960 to 57344 of m.data, which has {size}",
            ),
            (
                {"length": 16000},
                "has 16000 bytes of external data; its shape needs 16384",
            ),
        ],
    )
    def test_refused(
        self,
        changes: dict[str, object],
        problem: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "link.data").symlink_to("/etc/passwd")
        path = self.save(folder, **changes)
        result = run(capsys, path)
        size = (folder / "m.data").stat().st_size
        text = f'{path}: external data\n  tensor "first.weight" {problem.format(size=size)}'
        assert (result.code, result.err) == (2, f"error: {text}\n")
        assert names(tmp_path) == ["model", "model/link.data", "model/m.data", "model/m.onnx"]

    def test_no_element_type(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = self.save(tmp_path)
        model = onnx.load(path, load_external_data=False)
        tensor = next(t for t in model.graph.initializer if t.name == "first.weight")
        tensor.data_type = onnx.TensorProto.UNDEFINED
        path.write_bytes(model.SerializeToString())
        assert 'tensor "first.weight" has no element type' in run(capsys, path).err

    def test_all_problems_at_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = self.save(tmp_path)
        (tmp_path / "m.data").unlink()
        result = run(capsys, path)
        found = [line.split('"')[1] for line in result.err.splitlines()[1:]]
        assert found == [
            f"{name}.{part}" for name in ("first", "middle", "y") for part in ("weight", "bias")
        ]

    def test_compiles_and_counts(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = self.save(tmp_path)
        assert run(capsys, path, "--quiet").code == 0
        manifest = json.loads((tmp_path / "m.qc" / "manifest.json").read_text())
        weights = sum(w.nbytes for w in mlp().weights.values())
        assert manifest["content"]["source"]["bytes"] == path.stat().st_size + weights

    def test_links_of_a_download_cache(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
        blobs.mkdir()
        snapshot.mkdir()
        self.save(blobs)
        for name in ("m.onnx", "m.data"):
            (blobs / name).rename(blobs / f"hash-of-{name}")
            (snapshot / name).symlink_to(Path("..", "blobs", f"hash-of-{name}"))
        assert run(capsys, snapshot / "m.onnx", "--quiet").code == 0

    def test_old_opset(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        net = Net(opset=11)
        net.linear(net.input("x", ["batch", 64]), 64, 64, "y")
        net.output("y", ["batch", 64])
        path = tmp_path / "m.onnx"
        onnx.save(
            net.proto(), path, save_as_external_data=True, location="m.data", size_threshold=0
        )
        assert run(capsys, path, "--quiet").code == 0
