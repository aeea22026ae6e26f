# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be compiled: exit code 2, one message, nothing written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qcompile import session
from tests.cli.run import names, run
from tests.inputs.old_ops import text_of
from tests.pipeline import test_recurrent
from tests.pipeline.nets import Net, cnn, mlp

Make = Callable[[Path], None]


def write(data: bytes) -> Make:
    return lambda path: path.write_bytes(data) and None


def truncated(path: Path) -> None:
    mlp().save(path)
    path.write_bytes(path.read_bytes()[:-5000])


def future_opset(path: Path) -> None:
    model = mlp().proto()
    model.opset_import[0].version = session.newest_opset() + 1
    onnx.save(model, path)


def no_nodes(path: Path) -> None:
    model = mlp().proto()
    del model.graph.node[:]
    onnx.save(model, path)


def ancient_opset(path: Path) -> None:
    model = mlp().proto()
    model.opset_import[0].version = 6
    onnx.save(model, path)


def future_ir_version(path: Path) -> None:
    model = mlp().proto()
    model.ir_version = session.newest_ir_version() + 1
    onnx.save(model, path)


def unknown_ops(path: Path) -> None:
    model = mlp().proto()
    model.opset_import.add(domain="my.ops", version=1)
    for i in range(9):
        model.graph.node.add(op_type="Rotate", domain="my.ops", input=["x"], output=[f"turned{i}"])
    onnx.save(model, path)


def scan_of_opset_8(path: Path) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["": 8]> f {text_of("Scan", 8)}'
    )
    onnx.save(model, path)


def no_weights(path: Path) -> None:
    net = Net()
    net.node("Relu", [net.input("x", ["batch", 4])], "y")
    net.output("y", ["batch", 4])
    net.save(path)


def not_finite(path: Path) -> None:
    net = mlp()
    net.weights["first.weight"][2, 3] = np.nan
    net.weights["y.weight"][0, 0] = np.inf
    net.save(path)


def line_break(path: Path) -> None:
    net = Net()
    net.linear(net.input("x\n", ["batch", 4]), 4, 4, "y")
    net.output("y", ["batch", 4])
    net.save(path)


def too_large(path: Path) -> None:
    net = mlp()
    net.weights["first.weight"][2, 3] = 2e38
    net.save(path)


def circle(path: Path) -> None:
    model = mlp().proto()
    model.graph.node[0].input[0] = "first"
    onnx.save(model, path)


def made_twice(path: Path) -> None:
    model = mlp().proto()
    model.graph.node[3].output[0] = "first"
    model.graph.node[4].output[0] = "x"
    onnx.save(model, path)


def no_text(path: Path) -> None:
    data = mlp().proto().SerializeToString()
    data = data.replace(b"/first_sum/Add", b"/first\xfasum/Add")
    path.write_bytes(data.replace(b"middle_sum", b"middle\xfcsum"))


def no_type(path: Path) -> None:
    model = mlp().proto()
    model.graph.input[0].type.tensor_type.elem_type = 0
    model.graph.output[0].type.tensor_type.elem_type = 0
    onnx.save(model, path)


def no_attribute(path: Path) -> None:
    net = mlp()
    net.node("Concat", ["y", "y"], "twice")
    net.output("twice", ["batch", 32])
    onnx.save(net.proto(check=False), path)


def large_steps(path: Path) -> None:
    model = cnn().proto()
    pool = next(n for n in model.graph.node if n.op_type == "MaxPool")
    next(a for a in pool.attribute if a.name == "strides").ints[1] = 2**40
    onnx.save(model, path)


def recurrent_batch_of_none(path: Path) -> None:
    model = test_recurrent.net().proto()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0
    onnx.save(model, path)


def refused_by_onnxruntime(path: Path) -> None:
    model = mlp().proto()
    for node in model.graph.node:
        node.name = "same"
    onnx.save(model, path)


NOT_VALID = "m.onnx is no valid model: export it again\n"
NOT_ONNX = "m.onnx is not an ONNX model, or it is truncated ({} bytes could not be parsed)"
CASES: dict[str, tuple[Make, str]] = {
    "text": (write(b"hello, this is no model"), NOT_ONNX.format(23)),
    "random": (write(np.random.default_rng(0).bytes(4000)), NOT_ONNX.format(4000)),
    "empty": (write(b""), "m.onnx is empty (0 bytes)"),
    "missing": (lambda path: None, "m.onnx: no such file"),
    "folder": (lambda path: path.mkdir(), "m.onnx is a folder; an .onnx file is needed"),
    "no nodes": (
        no_nodes,
        "m.onnx is not an ONNX model: it has no nodes, no outputs or no opset",
    ),
    "opset": (
        future_opset,
        f"m.onnx has opset {session.newest_opset() + 1}; ONNX Runtime {ort.__version__} and "
        f"qcompile run up to {session.newest_opset()}: export it with an older opset",
    ),
    "old opset": (
        ancient_opset,
        "m.onnx has opset 6; ONNX Runtime runs from 7 on: export it with a newer opset",
    ),
    "ir version": (
        future_ir_version,
        f"m.onnx has IR version {session.newest_ir_version() + 1}; ONNX Runtime {ort.__version__} "
        f"and qcompile read up to {session.newest_ir_version()}: "
        "export it with an older onnx package",
    ),
    "unknown ops": (
        unknown_ops,
        "m.onnx has ops that ONNX Runtime lacks; qcompile loads no custom-op library: "
        "export the model with ONNX ops or with functions that say what they do\n"
        + "".join(f'  Rotate of domain my.ops (node "turned{i}")\n' for i in range(8))
        + "  and 1 more",
    ),
    "scan": (
        scan_of_opset_8,
        'Scan "y" is Scan of opset 8, which has batches and newer ones do not: '
        "export it with opset 9 or newer",
    ),
    "no weights": (
        no_weights,
        "nothing to quantize: the model has no Conv, MatMul or Gemm with a constant weight "
        "(qcompile quantizes weights that are stored in the file)",
    ),
    "not finite": (
        not_finite,
        'MatMul "/first_product/MatMul": its weight first.weight_nk holds NaN or infinity: '
        "repair the model, or leave the node out with --nodes-to-exclude\n"
        'MatMul "/y_product/MatMul": its weight y.weight_nk holds NaN or infinity: '
        "repair the model, or leave the node out with --nodes-to-exclude",
    ),
    "too large": (
        too_large,
        'MatMul "/first_product/MatMul": its weight first.weight_nk holds 2e+38; with f32 scales '
        "at most 1.84e+19 has codes: repair the model, or leave the node out with "
        "--nodes-to-exclude",
    ),
    "circle": (
        circle,
        NOT_VALID + '  "/first_product/MatMul", "/first_sum/Add", "/first/Relu" read each other\'s '
        "outputs in a circle",
    ),
    "made twice": (made_twice, NOT_VALID + '  "first" is made 2 times\n  "x" is made 2 times'),
    "no text": (
        no_text,
        NOT_VALID + "  graph.node[1].name is no UTF-8 text: b'/first\\xfasum/Add'\n"
        "  graph.node[4].output[0] is no UTF-8 text: b'middle\\xfcsum'\n"
        "  graph.node[4].name is no UTF-8 text: b'/middle\\xfcsum/Add'\n"
        "  graph.node[5].input[0] is no UTF-8 text: b'middle\\xfcsum'",
    ),
    "no type": (
        no_type,
        NOT_VALID + '  input "x" has no element type\n  output "y" has no element type',
    ),
    "large steps": (
        large_steps,
        NOT_VALID + '  MaxPool "/half/MaxPool" has strides [2, 1099511627776]; at most 1048576 of '
        "each are possible",
    ),
    "recurrent batch of none": (
        recurrent_batch_of_none,
        NOT_VALID + '  input "x" has the shape [seq,0,16], and ONNX Runtime\'s LSTM ("/l/LSTM") '
        "takes no batch of 0",
    ),
    "no attribute": (
        no_attribute,
        "ONNX Runtime refuses the model: [ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an "
        'invalid model. In Node, ("/twice/Concat", Concat, "", -1) : '
        '("y": tensor(float),"y": tensor(float),) -> ("twice": tensor(float),) , '
        "Error Required attribute 'axis' is missing.",
    ),
    "line break": (
        line_break,
        "m.onnx: the name 'x\\n' holds a line break: rename the tensor",
    ),
    "onnxruntime": (
        refused_by_onnxruntime,
        "ONNX Runtime refuses the model: [ONNXRuntimeError] : 1 : FAIL : This is an invalid "
        "model. Error: two nodes with same node name (same).",
    ),
}


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
