# SPDX-License-Identifier: Apache-2.0
"""Twins of a good compilation with one thing wrong: verify names the rung, nothing is written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import qcompile
from qcompile.artifact import sha256
from qcompile.errors import RefusedError, VerificationError
from qcompile.graph import DOMAIN, is_constant
from qcompile.version import VERSION
from tests.cli.run import run
from tests.pipeline.nets import Net, cnn, mlp, samples

# The package binds the function to the module's name.
PIPELINE = sys.modules["qcompile.compile"]
Change = Callable[[ir.Model], None]


def failed_rungs(
    stage: str, change: Callable[[Any], Any], preset: str, folder: Path, patch: pytest.MonkeyPatch
) -> list[str]:
    """The rungs that fail when the stage's result is changed."""
    net = mlp() if "dynamic" in preset or "16" in preset else cnn()
    real = getattr(PIPELINE, stage)

    def changed(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        change(result)
        return result

    patch.setattr(PIPELINE, stage, changed)
    with pytest.raises(VerificationError) as caught:
        qcompile.compile(
            net.save(folder / "m.onnx"),
            recipe=qcompile.Recipe(preset=preset),
            calibration_data=samples(net),
        )
    assert caught.value.exit_code == 3
    assert [p.name for p in folder.iterdir()] == ["m.onnx"]
    first, *lines = str(caught.value).splitlines()
    assert first == "verification failed; nothing was written"
    return [line.strip().split(" is above ")[0].rsplit(":", 1)[0] for line in lines]


def tensor_of(model: ir.Model, op_type: str, index: int) -> tuple[ir.Value, np.ndarray]:
    """An input of the second node of that type, and a copy of its array."""
    node = [n for n in model.graph if n.domain == DOMAIN and n.op_type == op_type][1]
    value = node.inputs[index]
    assert value is not None and value.const_value is not None
    return value, value.const_value.numpy().copy()


def flip(op_type: str, index: int, step: float = 1) -> Change:
    """Add to one element of an input; integers wrap."""

    def change(model: ir.Model) -> None:
        value, array = tensor_of(model, op_type, index)
        with np.errstate(over="ignore"):
            array.reshape(-1)[0] += np.array(step).astype(array.dtype)
        value.const_value = ir.tensor(array, name=value.name)

    return change


def attribute(op_type: str, name: str, step: float) -> Change:
    """Add to an attribute of the second node of that type."""

    def change(model: ir.Model) -> None:
        node = [n for n in model.graph if n.op_type == op_type][1]
        old = node.attributes[name]
        kind = ir.AttrInt64 if isinstance(old.value, int) else ir.AttrFloat32
        node.attributes[name] = kind(name, old.value + type(old.value)(step))

    return change


QDQ_FLOATS = "lower: QDQ, floats"
STATIC, DYNAMIC, FLOAT = "w4a8", "w4a8-dynamic", "w4a16"
TWINS: dict[str, tuple[str, Change, str, str]] = {
    # lower (CODES, BIAS, MULTIPLIER, SCALE, ZERO_POINT are the inputs 1 to 5)
    "lowered code": ("lower", flip("QMatMul", 1), DYNAMIC, "lower: constants"),
    "lowered code of a Conv": ("lower", flip("QConv", 1), STATIC, "lower: constants"),
    "lowered bias": ("lower", flip("QMatMul", 2, 1e-3), DYNAMIC, "lower: constants"),
    "lowered bias code": ("lower", flip("QConv", 2), STATIC, "lower: constants"),
    "lowered multiplier": ("lower", flip("QConv", 3, 1e-6), STATIC, "lower: constants"),
    "lowered scale": ("lower", flip("QMatMul", 4, 2.0**-10), DYNAMIC, "lower: constants"),
    "lowered zero point": ("lower", flip("QMatMul", 5), FLOAT, "lower: constants"),
    "lowered range": (
        "lower",
        attribute("QConv", "y_max", -255),
        STATIC,
        "lower: QDQ, codes apart",
    ),
    "lowered output zero point": (
        "lower",
        attribute("QConv", "y_zero_point", 3),
        STATIC,
        "lower: QDQ, codes apart",
    ),
    "lowered Relu": ("lower", attribute("QMatMul", "clip_min", -9), DYNAMIC, QDQ_FLOATS),
    "lowered Relu of floats": ("lower", attribute("QMatMul", "clip_min", -9), FLOAT, QDQ_FLOATS),
    # pack
    "packed byte": ("pack", flip("QMatMul", 1), DYNAMIC, "pack"),
    "packed byte of a Conv": ("pack", flip("QConv", 1), STATIC, "pack"),
    "packed bias": ("pack", flip("QMatMul", 2, 1e-3), FLOAT, "pack"),
    "packed multiplier": ("pack", flip("QConv", 3, 1e-6), STATIC, "pack"),
    "packed attribute": ("pack", attribute("QConv", "y_zero_point", 1), STATIC, "pack"),
}


@pytest.mark.parametrize("twin", TWINS)
def test_wrong_model(twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, change, preset, rung = TWINS[twin]
    assert rung in failed_rungs(stage, change, preset, tmp_path, monkeypatch)


def weight_codes(model: ir.Model) -> None:
    """One code of a weight, far from the number that it stands for."""
    nodes = [n for n in model.graph if n.op_type.startswith("Dequantize")]
    value = next(n.inputs[0] for n in nodes if is_constant(n.inputs[0]))
    assert value is not None and value.const_value is not None
    array = value.const_value.numpy().copy()
    array.reshape(-1)[5] ^= 3
    value.const_value = ir.tensor(array, name=value.name)


def merged_weights(model: ir.Model) -> None:
    value = next(iter(model.graph.initializers.values()))
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.001), name=value.name)


@pytest.mark.parametrize("preset", [STATIC, DYNAMIC, FLOAT])
def test_wrong_rounding(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = failed_rungs("transform", weight_codes, preset, tmp_path, monkeypatch)
    assert "transform: weights" in found


def test_wrong_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = failed_rungs("normalise", merged_weights, STATIC, tmp_path, monkeypatch)
    assert found == ["normalise"]


def emitted(change: Callable[[Path], None], *, hidden: bool) -> Callable[[Any], None]:
    """A change of the files on disk; hidden: the manifest says that they are so."""

    def apply(artifact: qcompile.Artifact) -> None:
        change(artifact.folder)
        for name, facts in artifact.content["files"].items():
            if hidden:
                facts["sha256"] = sha256(artifact.folder / name)
                facts["bytes"] = (artifact.folder / name).stat().st_size
        artifact.write_manifest()

    return apply


def byte_of(name: str, place: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)

    return change


def initializer(ending: str, step: float) -> Callable[[Path], None]:
    """Change the first element of an initializer inside model.onnx."""

    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        tensor = next(t for t in model.graph.initializer if t.name.endswith(ending))
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[0] += np.array(step).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(model, folder / "model.onnx")

    return change


EMITTED: dict[str, tuple[Callable[[Path], None], bool, str, str]] = {
    "byte on disk": (byte_of("model.onnx.data", 100), False, DYNAMIC, "emit"),
    "byte of the library": (byte_of("libqcompile_ops.so", -1), False, DYNAMIC, "emit"),
    "hidden byte of the weights": (byte_of("model.onnx.data", 100), True, DYNAMIC, "pack"),
    "hidden multiplier": (initializer("_multiplier", 1e-5), True, STATIC, "pack"),
    "hidden bias": (initializer("bias_codes", 1), True, STATIC, "pack"),
}


@pytest.mark.parametrize("twin", EMITTED)
def test_wrong_file(twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, hidden, preset, rung = EMITTED[twin]
    found = failed_rungs("emit", emitted(change, hidden=hidden), preset, tmp_path, monkeypatch)
    assert rung in found


def test_message_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = PIPELINE.emit

    def changed(*args: Any) -> qcompile.Artifact:
        artifact = real(*args)
        byte_of("libqcompile_ops.so", -1)(artifact.folder)
        return artifact

    monkeypatch.setattr(PIPELINE, "emit", changed)
    result = run(capsys, mlp().save(tmp_path / "m.onnx"))
    assert (result.code, result.out, result.err) == (
        3,
        "",
        "error: verification failed; nothing was written\n"
        "  emit: 1 is above 0 (files that differ from the manifest's sha256); "
        "worst: libqcompile_ops.so\n",
    )


def test_an_artifact_that_onnxruntime_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no fault of the user's model: exit code 3, not 2."""
    real = PIPELINE.emit

    def changed(*args: Any) -> qcompile.Artifact:
        artifact = real(*args)
        model = onnx.load(artifact.folder / "model.onnx", load_external_data=False)
        model.graph.node[0].op_type = model.graph.node[0].op_type[::-1]  # no more bytes
        (artifact.folder / "model.onnx").write_bytes(model.SerializeToString())
        return artifact

    monkeypatch.setattr(PIPELINE, "emit", changed)
    for target, what in (("ort", "the artifact"), ("cpu", "the artifact with its values shown")):
        with pytest.raises(RefusedError) as error:
            qcompile.compile(mlp().save(tmp_path / "m.onnx"), target)
        first, reason, cure = str(error.value).split("\n")
        assert first == (
            f"verification failed; nothing was written: ONNX Runtime refuses {what}, which "
            f"qcompile {VERSION} made"
        )
        assert "ONNXRuntimeError" in reason
        assert cure.startswith("This is a fault of qcompile, not of the model: report it")
        assert error.value.exit_code == 3
        assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_nan_only_in_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact's output is infinite where the float model's is not."""

    def change(model: ir.Model) -> None:
        for node in model.graph:
            if node.op_type == "QMatMul":
                node.attributes["clip_min"] = ir.AttrFloat32("clip_min", float("inf"))

    found = failed_rungs("lower", change, FLOAT, tmp_path, monkeypatch)
    assert "end to end" in found


def test_a_good_one_passes(tmp_path: Path) -> None:
    net: Net = cnn()
    made = qcompile.compile(net.save(tmp_path / "m.onnx"), calibration_data=samples(net))
    checks = json.loads((made.folder / "manifest.json").read_text())["measured"]["checks"]
    assert all(c["passed"] and c["count"] for c in checks)
