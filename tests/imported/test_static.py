# SPDX-License-Identifier: Apache-2.0
"""Models with static activations keep their codes and give their numbers."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile.errors import InputError, VerificationError
from qcompile.graph import DOMAIN, constant
from qcompile.numerics.requantize import multiplier
from qcompile.numerics.weight import CodedWeight
from qcompile.pack import weight_of_packed
from qcompile.passes.lower.lowered import MULTIPLIER
from qcompile.passes.transform.code_store import CodeStore
from tests.cli.run import run as run_command
from tests.imported.quantized import constants, run, static
from tests.pipeline.nets import cnn, mlp, samples

CASES = [
    (form, x, w, per_channel)
    for form in ("qdq", "operators")
    for x, w, per_channel in [
        ("u8", "s8", True),
        ("u8", "u8", False),
        ("s8", "s8", True),
        ("s8", "s8", False),
    ]
]


@pytest.mark.parametrize(("form", "x", "w", "per_channel"), CASES)
def test_codes_scales_and_numbers(
    form: str, x: str, w: str, per_channel: bool, tmp_path: Path
) -> None:
    net = cnn()
    path = static(net, tmp_path, form, x, w, per_channel=per_channel)
    artifact = qcompile.compile(path)
    assert artifact.content["preset"] == "as the model says"
    assert artifact.content["coverage"] == 1
    packed = {n.name: n for n in ir.load(artifact.folder / "model.onnx").graph}
    stored = constants(path)
    compared = 0
    for name, reader in (("stem", "stem_relu"), ("depthwise", "depthwise_relu")):
        node = next(n for k, n in packed.items() if k and f"/{name}/Conv" in k)
        assert node.domain == DOMAIN
        codes = stored[f"{name}.weight_quantized"].astype(np.int32)
        point = stored[f"{name}.weight_zero_point"].astype(np.int32).reshape(-1, 1, 1, 1)
        weight = weight_of_packed(node)
        expected = (codes - point).transpose(0, 2, 3, 1).reshape(weight.shape)
        assert np.array_equal(weight.values(), expected)
        sources = {"stem": ["x"], "depthwise": ["stem_relu", "stem"]}[name]
        x_scale = next(float(stored[f"{s}_scale"]) for s in sources if f"{s}_scale" in stored)
        scale = np.broadcast_to(stored[f"{name}.weight_scale"].reshape(-1), (16,))
        y_scale = float(stored.get(f"{reader}_scale", stored.get(f"{name}_scale")))
        asked = multiplier(x_scale, scale, y_scale)
        assert np.array_equal(constant(node.inputs[MULTIPLIER]), asked)
        compared += 1
    assert compared == 2
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    assert np.abs(wanted - found).max() <= 1.01 * float(stored["y_scale"])  # one code


def test_matrices_keep_their_codes(tmp_path: Path) -> None:
    net = mlp()
    path = static(net, tmp_path, "qdq", "s8", "s8", per_channel=True)
    artifact = qcompile.compile(path)
    stored = constants(path)
    nodes = [n for n in ir.load(artifact.folder / "model.onnx").graph if n.op_type == "QMatMul"]
    assert len(nodes) == 3
    for node, name in zip(nodes, ("first", "middle", "y"), strict=True):
        codes = stored[f"{name}.weight_quantized"]
        assert np.array_equal(weight_of_packed(node).values(), codes.T.astype(np.int32))
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    assert np.abs(wanted - found).max() <= 1.01 * float(stored["y_scale"])


@pytest.mark.parametrize("form", ["qdq", "operators"])
def test_target_ort(form: str, tmp_path: Path) -> None:
    net = cnn()
    path = static(net, tmp_path, form, "s8", "s8", per_channel=True)
    artifact = qcompile.compile(path, "ort")
    assert artifact.content["coverage"] == 1
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    assert np.abs(wanted - found).max() <= 1.01 * float(constants(path)["y_scale"])


def test_sixteen_bits_stay_as_they_are(tmp_path: Path) -> None:
    net = mlp()
    path = static(net, tmp_path, "qdq", "u16", "s8", per_channel=False, nodes_to_exclude=["/y/Add"])
    with pytest.raises(InputError, match="its activations are UINT16 codes"):
        qcompile.compile(path)


def test_the_report_names_no_float_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = static(cnn(), tmp_path, "qdq", "u8", "s8", per_channel=True)
    shown = run_command(capsys, "compile", path, "-o", tmp_path / "net.qc")
    assert shown.code == 0 and "cpu, as the model says" in shown.out
    assert "float model" not in shown.out and "against the given model" in shown.out
    shown = run_command(capsys, "inspect", tmp_path / "net.qc")
    assert shown.code == 0 and "cpu, as the model says" in shown.out
    assert "float model" not in shown.out and "QConv static" in shown.out


def test_a_sum_with_a_stored_vector_runs_on_codes(tmp_path: Path) -> None:
    path = static(mlp(), tmp_path, "qdq", "s8", "s8", per_channel=False)
    artifact = qcompile.compile(path)
    found = [n.op_type for n in ir.load(artifact.folder / "model.onnx").graph]
    assert "Add" not in found


def test_a_wrong_code_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = static(cnn(), tmp_path, "qdq", "u8", "s8", per_channel=True)
    real = CodeStore.get

    def changed(store: CodeStore, name: str) -> CodedWeight:
        found = real(store, name)
        codes = found.codes.copy()
        codes[0, 0] += 1 if codes[0, 0] < 127 else -1
        return CodedWeight(codes, found.scale, found.zero_point, found.format)

    monkeypatch.setattr(CodeStore, "get", changed)
    with pytest.raises(VerificationError, match="transform: kept codes: 4 is above 0"):
        qcompile.compile(path)


@pytest.mark.parametrize("form", ["qdq", "operators"])
def test_a_wrong_zero_point_is_found(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = sys.modules["qcompile.compile"]
    real = pipeline.normalise

    def changed(*args: object) -> ir.Model:
        model: ir.Model = real(*args)
        node = [n for n in model.graph if n.op_type == "QuantizeLinear"][1]
        point = node.inputs[2]
        assert point is not None and point.const_value is not None
        point.const_value = ir.tensor(point.const_value.numpy() + np.uint8(1), name=point.name)
        return model

    monkeypatch.setattr(pipeline, "normalise", changed)
    path = static(cnn(), tmp_path, form, "s8", "s8", per_channel=True)
    with pytest.raises(VerificationError, match="normalise: share apart"):
        qcompile.compile(path)
