# SPDX-License-Identifier: Apache-2.0
"""--integer-only: no float between quantizer and output, no sum that can overflow, or a refusal."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import qcompile
from models import digits
from qcompile.errors import InputError
from qcompile.graph import DOMAIN, attribute, constant, input_of
from qcompile.integer_only import CURE, check_sums, culprits, largest_sum
from qcompile.numerics.dyadic import INT32
from qcompile.pack import weight_parts
from qcompile.passes.lower.lowered import BIAS
from tests.passes.graphs import parse
from tests.pipeline.nets import Net, cnn, mlp, samples


def compiled(net: Net, folder: Path, preset: str = "w8a8") -> qcompile.Artifact:
    recipe = qcompile.Recipe(preset=preset, integer_only=True)
    return qcompile.compile(
        net.save(folder / "net.onnx"), recipe=recipe, calibration_data=samples(net)
    )


@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w4a4", "w2a8"])
@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
def test_nets(make, preset, tmp_path) -> None:
    artifact = compiled(make(), tmp_path, preset)
    checks = {c["rung"]: c for c in artifact.measured["checks"]}
    assert all(c["passed"] for c in checks.values())
    assert 0 < checks["integer: sums"]["measured"] < INT32[1]
    packed = artifact.model()
    assert list(culprits(packed.graph)) == []
    ours = [n for n in packed.graph if n.domain == DOMAIN and n.op_type != "QLut"]
    assert ours and all(
        attribute(n, "requantize") == "dyadic" or attribute(n, "mode") == "max" for n in ours
    )
    stored = [v for n in ours for v in n.inputs if v is not None and v.const_value is not None]
    assert {v.dtype for v in stored} <= {ir.DataType.UINT8, ir.DataType.INT32}
    assert list(artifact.content["integer_outputs"]) == [v.name for v in packed.graph.outputs]


def test_digits_keep_their_accuracy(tmp_path) -> None:
    images, _ = digits.data("calibration")
    artifact = qcompile.compile(
        digits.path(),
        output=tmp_path / "digits.qc",
        recipe=qcompile.Recipe(preset="w8a8", integer_only=True),
        calibration_data={"image": images},
        metric=digits.accuracy,
    )
    assert artifact.measured["metric"]["drop"] <= 0.3  # one image of 360


def test_culprits_are_named_at_once(tmp_path) -> None:
    net = Net()
    x = net.input("x", [4, 64])
    x = net.linear(x, 64, 64, "first")
    x = net.node("Softmax", [x], "weights", axis=-1)
    x = net.linear(x, 64, 64, "second")
    x = net.node("LogSoftmax", [x], "wave", axis=-1)
    net.linear(x, 64, 16, "y")
    net.output("y", [4, 16])
    with pytest.raises(InputError) as caught:
        compiled(net, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "--integer-only: 2 nodes without an integer form"
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [
        "/weights/Softmax",
        "/wave/LogSoftmax",
    ]
    assert lines[-1] == CURE and not list(tmp_path.glob("*.qc"))


@pytest.mark.parametrize(
    ("recipe", "target", "message"),
    [
        (
            {"preset": "w8a8-dynamic"},
            "cpu",
            "--integer-only: preset w8a8-dynamic has dynamic activations, static ones are needed: "
            "give --calibration-data and use w8a8",
        ),
        (
            {"preset": "w4a16"},
            "cpu",
            "--integer-only: preset w4a16 has float activations, static ones are needed: "
            "give --calibration-data and use w4a8",
        ),
        ({}, "ort", "--integer-only: target ort has no such form: use --target cpu"),
    ],
)
def test_refusals(recipe, target, message, tmp_path) -> None:
    net = mlp()
    with pytest.raises(InputError) as caught:
        qcompile.compile(
            net.save(tmp_path / "net.onnx"),
            target,
            recipe=qcompile.Recipe(integer_only=True, **recipe),
            calibration_data=samples(net),
        )
    assert str(caught.value) == message


def test_an_output_that_no_codes_reach() -> None:
    model = parse(
        "f (float[2,3] x) => (float[2,3] y, float[2,3] z) <float s = {0.5}, uint8 p = {8}> "
        "{ y = Sin (x)   c = QuantizeLinear (x, s, p)   z = DequantizeLinear (c, s, p) }"
    )
    assert [(c.op_type, c.reason) for c in culprits(model.graph)] == [
        ("Sin", "no quantized op stands between the input and this output")
    ]


def test_floats_between_codes_are_found() -> None:
    model = parse(
        "f (float[2,3] x) => (float[3,2] y) <float s = {0.5}, uint8 p = {8}> "
        "{ c = QuantizeLinear (x, s, p)   d = DequantizeLinear (c, s, p)   e = Exp (d) "
        "  g = QuantizeLinear (e, s, p)   z = DequantizeLinear (g, s, p) "
        "  y = Transpose <perm = [1, 0]> (z) }"
    )
    assert [(c.op_type, c.reason) for c in culprits(model.graph)] == [
        ("Exp", "it reads floats of codes")
    ]


def test_largest_sum_is_reached_by_the_worst_input(tmp_path) -> None:
    artifact = compiled(mlp(), tmp_path)
    node = next(n for n in artifact.model().graph if n.op_type == "QMatMul")
    bound, point = largest_sum(node, (0, 255)), int(attribute(node, "x_zero_point"))
    bias = constant(input_of(node, BIAS))
    assert bias is not None
    reached = 0
    for rows, weight in weight_parts(node):
        for row, added in zip(weight.values().astype(np.int64), bias[rows], strict=True):
            for x in (np.where(row > 0, 255, 0), np.where(row > 0, 0, 255)):
                reached = max(reached, abs(int(((x - point) * row).sum()) + int(added)))
    assert reached == bound


def test_a_sum_that_overflows_fails(tmp_path) -> None:
    packed = compiled(mlp(), tmp_path).model()
    node = next(n for n in packed.graph if n.op_type == "QMatMul")
    value = node.inputs[BIAS]
    assert value is not None and value.const_value is not None
    huge = np.full(value.const_value.shape.numpy(), 2**31 - 1, np.int32)
    value.const_value = ir.tensor(huge, name=value.name)
    check = check_sums(packed)
    assert not check.passed and check.worst == node.name


def test_the_artifact_runs_in_plain_onnxruntime(tmp_path) -> None:
    net = mlp()
    artifact = compiled(net, tmp_path)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    found = qcompile.load(artifact.folder).run(None, {"x": x})[0]
    scale = artifact.content["integer_outputs"]["y"]["scale"]
    integers = found / np.float32(scale)
    assert np.abs(integers - np.rint(integers)).max() <= np.abs(integers).max() * 2.0**-23
    onnx.checker.check_model(str(artifact.folder / "model.onnx"), full_check=False)
