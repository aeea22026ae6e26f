# SPDX-License-Identifier: Apache-2.0
"""Dynamic and packed products, exports of training with simulated quantization, mixed models."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import qcompile
from qcompile.errors import VerificationError
from qcompile.formats import get
from qcompile.numerics.quantize import quantize
from qcompile.pack import weight_of_packed
from qcompile.passes.normalise.split_dynamic_product import SplitDynamicProduct
from tests.imported.quantized import constants, dynamic, run
from tests.pipeline.nets import Net, cnn, mlp, samples


def products(folder: Path) -> list[ir.Node]:
    """The compiled products of an artifact."""
    nodes = ir.load(folder / "model.onnx").graph
    return [n for n in nodes if n.op_type in ("QConv", "QMatMul")]


@pytest.mark.parametrize("w", ["u8", "s8"])
def test_dynamic(w: str, tmp_path: Path) -> None:
    net = mlp()
    path = dynamic(net, tmp_path, w)
    artifact = qcompile.compile(path)
    stored = constants(path)
    found = products(artifact.folder)
    assert [n.attributes["activation"].value for n in found] == ["dynamic"] * 3
    for node, name in zip(found, ("first", "middle", "y"), strict=True):
        codes = stored[f"{name}.weight_quantized"].astype(np.int32)
        weight, scale = weight_of_packed(node), stored[f"{name}.weight_scale"]
        expected = codes - stored[f"{name}.weight_zero_point"].astype(np.int32)
        assert np.array_equal(weight.values(), expected.T)
        assert weight.scale is not None
        assert np.array_equal(weight.scale, np.full_like(weight.scale, scale))


def test_dynamic_convolutions_run(tmp_path: Path) -> None:
    artifact = qcompile.compile(dynamic(cnn(), tmp_path, "u8"))
    assert artifact.content["coverage"] == 1


def test_a_wrong_dynamic_scale_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SplitDynamicProduct.rewrite

    def changed(self: SplitDynamicProduct, node: ir.Node, found: object) -> None:
        scale = found.scale  # type: ignore[attr-defined]
        scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(2), name=scale.name)
        real(self, node, found)  # type: ignore[arg-type]

    monkeypatch.setattr(SplitDynamicProduct, "rewrite", changed)
    with pytest.raises(VerificationError, match="normalise: dynamic"):
        qcompile.compile(dynamic(mlp(), tmp_path, "s8"))


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_packed_blocks(is_symmetric: bool, tmp_path: Path) -> None:
    net = mlp()
    net.save(tmp_path / "float.onnx")
    tool = MatMulNBitsQuantizer(net.proto(), block_size=32, is_symmetric=is_symmetric)
    tool.process()
    path = tmp_path / "packed.onnx"
    tool.model.save_model_to_file(path)
    artifact = qcompile.compile(path)
    assert [n.attributes["block_size"].value for n in products(artifact.folder)] == [32] * 3
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    # N14 three times over: K = 64 terms a sum, none above the largest output's sum of magnitudes.
    assert np.abs(wanted - found).max() <= 3 * (64 + 4) * 2.0**-23 * 64 * np.abs(wanted).max()


def trained(bias_scale: float | None = None) -> Net:
    """As training with simulated quantization exports: float weights behind a pair, float outputs.

    x float [batch, 8, 6, 6] → y float [batch, 16, 6, 6]; x and the weights are quantized.
    """
    net = Net()
    x = net.input("x", ["batch", 8, 6, 6])
    weight = net.weight("w", 16, 8, 3, 3)
    scales = np.abs(net.weights["w"]).max((1, 2, 3)) / 127
    for name, value in {"xs": 0.03, "ws": scales}.items():
        net.array(name, np.asarray(value, np.float32))
    net.array("xz", np.array(3, np.int8))
    net.array("wz", np.zeros(16, np.int8))
    x = net.node("QuantizeLinear", [x, "xs", "xz"], "x_codes")
    x = net.node("DequantizeLinear", [x, "xs", "xz"], "x_real")
    w = net.node("QuantizeLinear", [weight, "ws", "wz"], "w_codes", axis=0)
    w = net.node("DequantizeLinear", [w, "ws", "wz"], "w_real", axis=0)
    bias = net.weight("b", 16)
    if bias_scale is not None:
        net.array("b_codes", np.arange(-8, 8, dtype=np.int32) * 1000)
        net.array("b_scale", np.float32(bias_scale))
        bias = net.node("DequantizeLinear", ["b_codes", "b_scale"], "b_real")
    net.node("Conv", [x, w, bias], "y", pads=[1] * 4)
    net.output("y", ["batch", 16, 6, 6])
    return net


@pytest.mark.parametrize("bias_scale", [None, 0.001])
def test_trained_with_simulated_quantization(bias_scale: float | None, tmp_path: Path) -> None:
    net = trained(bias_scale)
    path = net.save(tmp_path / "m.onnx")
    artifact = qcompile.compile(path)
    (node,) = products(artifact.folder)
    assert node.attributes["activation"].value == "static"
    assert node.attributes["output"].value == "f32"
    scale = net.weights["ws"].reshape(-1, 1, 1, 1)
    codes = quantize(net.weights["w"], scale, 0, get("int8"), symmetric=False)
    expected = codes.transpose(0, 2, 3, 1).reshape(16, -1)
    assert np.array_equal(weight_of_packed(node).values(), expected)
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    # The bias is rounded to a code of x_scale · w_scale (N7), the sums to f32 (N14).
    half_step = 0.03 * net.weights["ws"].max() / 2
    sums = 72 * 128 * 0.03 * np.abs(net.weights["w"]).max() + 8
    assert np.abs(wanted - found).max() <= half_step + (72 + 4) * 2.0**-23 * sums


def blocked(dtype: int) -> onnx.ModelProto:
    """A product of float x [batch, 64] with 4-bit codes in blocks of 32 (opset 21)."""
    rng = np.random.default_rng(0)
    signed = dtype == TensorProto.INT4
    codes = rng.integers(-8 if signed else 0, 8 if signed else 16, (64, 16))
    tensors = [
        helper.make_tensor("codes", dtype, [64, 16], codes.ravel().tolist()),
        numpy_helper.from_array(rng.uniform(0.01, 0.1, (2, 16)).astype(np.float32), "scale"),
    ]
    inputs = ["codes", "scale"]
    if not signed:
        points = rng.integers(0, 16, (2, 16))
        tensors.append(helper.make_tensor("point", dtype, [2, 16], points.ravel().tolist()))
        inputs.append("point")
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["w"], "w/dq", axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"], "y/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("dtype", [TensorProto.INT4, TensorProto.UINT4])
def test_four_bit_blocks(dtype: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(blocked(dtype), path)
    artifact = qcompile.compile(path)
    (node,) = products(artifact.folder)
    weight = weight_of_packed(node)
    assert weight.format.bits == 4
    identity = np.eye(64, dtype=np.float32)
    assert np.array_equal(weight.decode().T, run(path, {"x": identity})[0])


def test_a_mixed_model_keeps_its_codes_and_quantizes_the_rest(tmp_path: Path) -> None:
    net = trained()
    net.outputs.clear()
    net.node("Relu", ["y"], "z")
    net.conv("z", 8, 16, "rest")
    net.output("rest", ["batch", 8, 6, 6])
    path = net.save(tmp_path / "m.onnx")
    as_it_is = {n["node"]: n for n in qcompile.compile(path).content["nodes"]}
    reason = "float in the model; give --preset to quantize it too"
    assert as_it_is["/rest/Conv"]["reason"] == reason
    recipe = qcompile.Recipe(preset="w8a8")
    artifact = qcompile.compile(
        path, recipe=recipe, calibration_data=samples(net), output=tmp_path / "both.qc"
    )
    assert artifact.content["coverage"] == 1
    kept = next(n for n in products(artifact.folder) if n.name == "/y/Conv")
    scale = net.weights["ws"].reshape(-1, 1, 1, 1)
    codes = quantize(net.weights["w"], scale, 0, get("int8"), symmetric=False)
    expected = codes.transpose(0, 2, 3, 1).reshape(16, -1)
    assert np.array_equal(weight_of_packed(kept).values(), expected)
