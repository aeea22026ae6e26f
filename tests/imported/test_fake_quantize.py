# SPDX-License-Identifier: Apache-2.0
"""Exports of PyTorch's FakeQuantize: pairs with a Clip of codes, scales [1], Cast zero points."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

import qcompile
from qcompile.formats import get
from qcompile.numerics.quantize import quantize
from qcompile.pack import weight_of_packed
from tests.imported.quantized import run
from tests.pipeline.nets import Net, samples

TYPES = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}


class Trained(Net):
    """A net whose values and weights go through FakeQuantize, as torch.onnx.export writes it.

    kind: uint8 or int8 codes of activations. limits: of their codes, (0, 127) with a reduced
    range; weights: the codes of weights, symmetric int8 with one scale an output.
    """

    def __init__(self, kind: type, limits: tuple[int, int], weights: tuple[int, int]) -> None:
        super().__init__(seed=4)
        self.kind, self.limits, self.narrow = kind, limits, weights
        self.points = {np.uint8: 40, np.int8: -17}

    def fake(self, x: str, scale: float) -> str:
        """Per tensor: scale and zero point are buffers of one element, the latter of int32."""
        self.array(f"{x}.scale", np.array([scale], np.float32))
        self.array(f"{x}.zero_point", np.array([self.points[self.kind]], np.int32))
        cast = TYPES[self.kind]
        point = self.node("Cast", [f"{x}.zero_point"], f"{x}.point", to=cast)
        return self._pair(x, [f"{x}.scale", point], self.kind, self.limits)

    def weighed(self, name: str, *dims: int) -> str:
        """Per channel: axis 0."""
        w = self.weight(name, *dims)
        largest = np.abs(self.weights[name]).reshape(dims[0], -1).max(1)
        self.array(f"{name}.scale", (largest / 130).astype(np.float32))  # some are cut
        self.array(f"{name}.zero_point", np.zeros(dims[0], np.int8))
        pair = [f"{name}.scale", f"{name}.zero_point"]
        return self._pair(w, pair, np.int8, self.narrow, axis=0)

    def _pair(
        self, x: str, params: list[str], kind: type, limits: tuple[int, int], **axis: int
    ) -> str:
        codes = self.node("QuantizeLinear", [x, *params], f"{x}.codes", **axis)
        ends = np.iinfo(kind).min, np.iinfo(kind).max
        if limits != ends:  # a bound that is the type's own is left out
            bounds = [
                "" if limit == end else self.array(f"{x}.{name}", np.array(limit, kind))
                for name, limit, end in zip(("low", "high"), limits, ends, strict=True)
            ]
            codes = self.node("Clip", [codes, *bounds], f"{x}.clipped")
        return self.node("DequantizeLinear", [codes, *params], f"{x}.real", **axis)


def trained(kind: type, limits: tuple[int, int], weights: tuple[int, int]) -> Trained:
    """Conv, Relu, depthwise Conv, a mean, Linear; x float [batch, 3, 8, 8] → y [batch, 5]."""
    net = Trained(kind, limits, weights)
    x = net.fake(net.input("x", ["batch", 3, 8, 8]), 0.02)
    h = net.node("Conv", [x, net.weighed("w", 16, 3, 3, 3), net.weight("b", 16)], "c", pads=[1] * 4)
    h = net.fake(net.node("Relu", [h], "r"), 0.015)
    w = net.weighed("v", 16, 1, 3, 3)
    h = net.fake(net.node("Conv", [h, w, net.weight("d", 16)], "e", group=16, pads=[1] * 4), 0.02)
    h = net.fake(net.node("GlobalAveragePool", [h], "g"), 0.01)
    h = net.node("Flatten", [h], "f")
    h = net.node("Gemm", [h, net.weighed("u", 5, 16), net.weight("k", 5)], "m", transB=1)
    net.output(net.fake(h, Y_SCALE), ["batch", 5])
    return net


Y_SCALE = 0.03
FORMS = {
    "uint8": (np.uint8, (0, 255), (-128, 127)),
    "reduced range": (np.uint8, (0, 127), (-128, 127)),
    "int8": (np.int8, (-128, 127), (-128, 127)),
    "narrow weights": (np.int8, (-128, 127), (-127, 127)),
    "reduced range, narrow weights": (np.uint8, (0, 127), (-127, 127)),
}


@pytest.mark.parametrize("form", FORMS)
def test_codes_and_numbers(form: str, tmp_path: Path) -> None:
    kind, limits, weights = FORMS[form]
    net = trained(kind, limits, weights)
    path = net.save(tmp_path / "m.onnx")
    artifact = qcompile.compile(path)
    assert artifact.content["preset"] == "as the model says"
    assert artifact.content["coverage"] == 1
    packed = {n.name: n for n in ir.load(artifact.folder / "model.onnx").graph}
    for node, name in (("/c/Conv", "w"), ("/e/Conv", "v"), ("/m/Gemm", "u")):
        expected = np.clip(codes_of(net, name), *weights)
        assert {*weights} & {*expected.ravel().tolist()}  # some are cut
        weight = weight_of_packed(packed[node])
        if expected.ndim == 4:
            expected = expected.transpose(0, 2, 3, 1)
        assert np.array_equal(weight.values(), expected.reshape(weight.shape))
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    assert len(np.unique(np.rint(wanted / Y_SCALE))) > 20
    assert np.abs(wanted - found).max() <= 1.01 * Y_SCALE  # one code


def test_a_clip_that_is_left_out_is_seen(tmp_path: Path) -> None:
    """The twin: numbers of 0 … 255 are not those of 0 … 127."""
    found = []
    for limits in ((0, 127), (0, 255)):
        net = trained(np.uint8, limits, (-128, 127))
        made = qcompile.compile(net.save(tmp_path / "m.onnx"), force=True)
        found.append(qcompile.load(made.folder).run(None, samples(net, seed=5))[0])
    assert np.abs(found[0] - found[1]).max() > 1.01 * Y_SCALE


@pytest.mark.parametrize("least", [-128, -127])
def test_a_convolution_trained_with_its_batch_norm(least: int, tmp_path: Path) -> None:
    """The weight is quantized times gamma / sqrt(variance), which is divided out behind it.

    Both go into the scales; what divides by a gamma below 0 is taken back by the norm.
    """
    net = Trained(np.uint8, (0, 127), (least, 127))
    x = net.fake(net.input("x", ["batch", 3, 8, 8]), 0.04)
    gamma, beta, mean = (net.weight(name, 16) for name in ("gamma", "beta", "mean"))
    variance = net.array("variance", net.rng.uniform(0.5, 2, 16).astype(np.float32))
    factor = net.weights["gamma"] / np.sqrt(net.weights["variance"] + np.float32(1e-5))
    net.array("factor", factor.reshape(1, 16, 1, 1).astype(np.float32))
    h = net.node("Conv", [x, net.weighed("w", 16, 3, 3, 3)], "c", pads=[1] * 4)
    h = net.node("Div", [h, "factor"], "divided")
    h = net.node("BatchNormalization", [h, gamma, beta, mean, variance], "n", epsilon=1e-5)
    net.output(net.fake(net.node("Relu", [h], "r"), Y_SCALE), ["batch", 16, 8, 8])
    path = net.save(tmp_path / "m.onnx")
    artifact = qcompile.compile(path)
    assert artifact.content["coverage"] == 1
    assert (net.weights["gamma"] < 0).any() and least in np.clip(codes_of(net, "w"), least, 127)
    ops = {n.op_type for n in ir.load(artifact.folder / "model.onnx").graph}
    assert ops == {"QuantizeLinear", "Clip", "Transpose", "QConv", "DequantizeLinear"}
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    assert np.abs(wanted - found).max() <= 1.01 * Y_SCALE


def codes_of(net: Net, name: str) -> NDArray[np.int32]:
    """What QuantizeLinear makes of the weight."""
    w = net.weights[name]
    scale = net.weights[f"{name}.scale"].reshape(-1, *[1] * (w.ndim - 1))
    return quantize(w, scale, 0, get("int8"), symmetric=False).astype(np.int32)
