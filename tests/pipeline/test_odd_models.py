# SPDX-License-Identifier: Apache-2.0
"""Models that are legal and unusual: they compile, or what stays float says why."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

import qcompile
from qcompile.errors import InputError
from tests.pipeline.nets import Net, mlp, samples
from tests.pipeline.odd_nets import NETS, branches, data_for, ended, string_input, x64


@pytest.mark.parametrize("preset", ["w8a8", "w4a8-dynamic", "w4a16"])
@pytest.mark.parametrize("name", NETS)
def test_compiles(name: str, preset: str, tmp_path: Path) -> None:
    net = NETS[name]()
    data = data_for(net)
    path = net.save(tmp_path / f"{name}.onnx")
    made = qcompile.compile(path, recipe=qcompile.Recipe(preset=preset), calibration_data=data)
    assert made.measured["sqnr_db"] > 10
    session = qcompile.load(made.folder)
    proto = onnx.load(path)
    assert [v.name for v in session.get_outputs()] == [v.name for v in proto.graph.output]
    inputs = [v.name for v in proto.graph.input if v.name not in net.weights]
    assert [v.name for v in session.get_inputs()] == inputs


MADE_UP = ("bool_input", "float16_input", "int32_tokens", "loop", "branches", "two_fixed_batches")


@pytest.mark.parametrize("name", [*MADE_UP, "scalar_and_vector_inputs", "initializer_is_input"])
def test_compiles_without_data(name: str, tmp_path: Path) -> None:
    made = qcompile.compile(NETS[name]().save(tmp_path / "m.onnx"))
    assert made.measured["synthetic_data"]
    assert made.content["preset"] == "w8a8-dynamic"


@pytest.mark.parametrize("name", ["branches", "loop"])
def test_weights_of_bodies_run_from_codes(name: str, tmp_path: Path) -> None:
    content = qcompile.compile(NETS[name]().save(tmp_path / "m.onnx")).content
    assert {r["reason"] for r in content["nodes"]} == {None}
    assert content["coverage"] == 1


def test_branch_and_main_graph_share_a_weight(tmp_path: Path) -> None:
    net = branches()
    made = qcompile.compile(net.save(tmp_path / "m.onnx"))
    session, feed = qcompile.load(made.folder), data_for(net)
    floats = qcompile.compare(net.save(tmp_path / "m.onnx"), made.folder, feed)
    assert floats.outputs[0].sqnr_db > 20
    for choice in (True, False):
        session.run(None, feed | {"choice": np.array(choice)})


def test_external_data_of_a_branch(tmp_path: Path) -> None:
    model = branches().proto()
    path = tmp_path / "m.onnx"
    branch = next(n for n in model.graph.node if n.op_type == "If")
    inner = next(a.g.initializer for a in branch.attribute if a.name == "then_branch")
    assert [t.name for t in inner] == ["own"]
    (tmp_path / "own.data").write_bytes(inner[0].raw_data)
    inner[0].ClearField("raw_data")
    inner[0].data_location = TensorProto.EXTERNAL
    inner[0].external_data.add(key="location", value="own.data")
    path.write_bytes(model.SerializeToString())
    made = qcompile.compile(path)
    assert made.content["source"]["bytes"] == path.stat().st_size + 64 * 64 * 4
    moved = made.folder.rename(tmp_path / "moved.qc")
    (tmp_path / "own.data").unlink()
    qcompile.load(moved).run(None, data_for(branches()))


def test_no_shape(tmp_path: Path) -> None:
    path, model = tmp_path / "m.onnx", mlp().proto()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        qcompile.compile(path)
    assert str(caught.value) == (
        'input "x" has no shape, so qcompile cannot make up data: give --calibration-data'
    )
    data = samples(mlp())
    assert qcompile.compile(path, calibration_data=data).measured["sqnr_db"] > 30


def test_strings_cannot_be_made_up(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        qcompile.compile(string_input().save(tmp_path / "m.onnx"))
    assert str(caught.value) == (
        'input "label" holds strings, so qcompile cannot make up data: give --calibration-data'
    )


def test_random_inputs_that_the_model_refuses(tmp_path: Path) -> None:
    net, x = x64()
    rows = net.input("rows", ["count"], TensorProto.INT64)
    net.node("Reshape", [x, rows], "reshaped")
    net.output("reshaped", ["a", "b"])
    with pytest.raises(InputError) as caught:
        qcompile.compile(ended(net, x).save(tmp_path / "m.onnx"))
    assert str(caught.value).startswith("ONNX Runtime fails on the data: ")


def test_infinite_activations(tmp_path: Path) -> None:
    net, x = x64()
    big = net.array("big", np.float32(3e38))
    h = net.node("Mul", [net.node("Mul", [x, big], "huge"), big], "infinite")
    path = ended(net, h).save(tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        qcompile.compile(path, calibration_data=samples(mlp()))
    assert str(caught.value) == (
        'calibration: the float model gives NaN or infinity at "infinite", '
        "which has no static range: use a8-dynamic, or check model and data"
    )


@pytest.mark.parametrize("height", [2, "height"])
def test_a_pool_larger_than_its_map(height: int | str, tmp_path: Path) -> None:
    """ONNX Runtime 1.32 divides by 0 in such a pool of 8 channels, which ends the process."""
    net = Net()
    x = net.input("x", ["batch", 8, height, 3])
    y = net.node("Conv", [x, net.weight("w", 8, 8, 1, 1)], "c")
    pooled = {"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [2, 1, 0, 0], "ceil_mode": 1}
    net.output(net.node("MaxPool", [y], "p", **pooled), ["batch", 8, "oh", "ow"])
    data = {"x": np.ones((8, 8, 2, 3), np.float32)}
    with pytest.raises(InputError) as caught:
        qcompile.compile(net.save(tmp_path / "m.onnx"), calibration_data=data)
    assert str(caught.value).endswith(
        'MaxPool "/p/MaxPool" looks at 5 of 2 places of axis 2, padded by 2 and 0'
    )


@pytest.mark.parametrize("count", [4, 7, 12])
def test_batches_of_a_fixed_size(count: int, tmp_path: Path) -> None:
    """Samples that do not fill a batch are left out."""
    path, data = mlp(batch=4).save(tmp_path / "m.onnx"), samples(mlp(), count)
    whole = {"x": data["x"][: count // 4 * 4]}
    found = [
        qcompile.compile(path, output=tmp_path / str(i), calibration_data=each)
        for i, each in enumerate((data, whole))
    ]
    assert found[0].content == found[1].content
    assert found[0].measured["sqnr_db"] == found[1].measured["sqnr_db"]


@pytest.mark.parametrize("target", ["cpu", "ort"])
def test_an_output_whose_transpose_is_quantized_is_the_models(target: str, tmp_path: Path) -> None:
    """ONNX Runtime alone would move the quantizer before the Transpose, onto the output."""
    net = Net()
    out = net.node("Relu", [net.input("x", ["batch", 64, 8])], "a")
    turned = net.node("Transpose", [out], "turned", perm=[0, 2, 1])
    net.output(out, ["batch", 64, 8])
    net.linear(turned, 64, 16, "y")
    net.output("y", ["batch", 8, 16])
    x = np.random.default_rng(5).standard_normal((8, 64, 8)).astype(np.float32)
    path, recipe = net.save(tmp_path / "m.onnx"), qcompile.Recipe(preset="w8a8")
    made = qcompile.compile(path, target, recipe=recipe, calibration_data={"x": x})
    assert made.content["coverage"] == 1
    found, _ = qcompile.load(made.folder).run(None, {"x": x})
    assert np.array_equal(found, np.maximum(x, 0))


def test_an_interpolation_behind_two_transposes(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 would move the first of them to axes that its linear Resize lacks."""
    model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["": 17]>
    f (float[3,3,4,4] x) => (float[3,3,4,1] b, float[3,1,6,8] y)
    <float[4,1] v = {0.06, -0.066, 0.32, 0.052}, float[3,1,1,1] w = {0.36, 1.304, 0.947},
     float[4] s = {1, 1, 2, 2}>
    { m = MatMul (x, v)  a = Conv <group = 3, kernel_shape = [1, 1]> (m, w)
      b = Conv <group = 3, kernel_shape = [1, 1]> (a, w)
      t = Transpose <perm = [0, 3, 1, 2]> (a)
      y = Resize <coordinate_transformation_mode = "pytorch_half_pixel", mode = "linear">
        (t, , s) }""")
    ir.save(model, tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((12, 3, 4, 4)).astype(np.float32)}
    made = qcompile.compile(
        tmp_path / "m.onnx", recipe=qcompile.Recipe("w8a8"), calibration_data=data
    )
    assert made.content["coverage"] == 1
