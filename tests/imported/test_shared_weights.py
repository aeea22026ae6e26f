# SPDX-License-Identifier: Apache-2.0
"""Quantized models whose products share a weight, as a processor without VNNI opens them."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

import qcompile
from qcompile import session
from tests.pipeline.nets import Net


def constants(net: Net) -> str:
    """Codes, scale and zero point of a weight [64, 64], scale and zero point of activations."""
    net.array("wc", net.rng.integers(-127, 128, (64, 64)).astype(np.int8))
    for name, value in {"ws": 0.00213, "xs": 0.0307}.items():
        net.array(name, np.float32(value))
    net.array("wz", np.int8(0))
    net.array("xz", np.uint8(128))
    return net.input("x", ["batch", 64])


def operators(net: Net) -> str:
    x, params = constants(net), ["wc", "ws", "wz", "xs", "xz"]
    for i in range(2):
        x = net.node("QuantizeLinear", [x, "xs", "xz"], "q") if i == 0 else x
        x = net.node("QLinearMatMul", [x, "xs", "xz", *params], f"m{i}")
    return net.node("DequantizeLinear", [x, "xs", "xz"], "y")


def pairs(net: Net) -> str:
    x = constants(net)
    w = net.node("DequantizeLinear", ["wc", "ws", "wz"], "w")
    for i in range(3):
        q = net.node("QuantizeLinear", [x, "xs", "xz"], f"q{i}")
        x = net.node("DequantizeLinear", [q, "xs", "xz"], f"d{i}")
        x = net.node("MatMul", [x, w], f"m{i}") if i < 2 else x
    return x


def dynamic(net: Net) -> str:
    x = constants(net)
    for i in range(2):
        found = [f"{name}{i}" for name in ("codes", "scale", "point")]
        net.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], found))
        x = net.node("MatMulInteger", [found[0], "wc", found[2], "wz"], f"m{i}")
        x = net.node("Cast", [x], f"f{i}", to=1)
        x = net.node("Mul", [x, net.node("Mul", [found[1], "ws"], f"s{i}")], f"y{i}")
    return x


@pytest.mark.parametrize("target", ["cpu", "ort"])
@pytest.mark.parametrize("form", [operators, pairs, dynamic])
def test_compiles(form, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_has_vnni", lambda: False)
    net = Net()
    net.output(form(net), ["batch", 64])
    data = {"x": np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)}
    made = qcompile.compile(net.save(tmp_path / "m.onnx"), target, calibration_data=data)
    assert made.content["preset"] == "as the model says" and made.content["coverage"] == 1
    (found,) = qcompile.load(made.folder).run(None, data)
    assert found.shape == (64, 64) and made.measured["sqnr_db"] > 30


def test_only_what_is_shared_is_copied() -> None:
    for form, count in ((operators, 2), (pairs, 2), (dynamic, 2)):
        net = Net()
        net.output(form(net), ["batch", 64])
        model = ir.from_proto(net.proto())
        before = len(model.graph.initializers)
        own = session._with_own_weights(model)
        assert own is not model and len(model.graph.initializers) == before
        assert len(own.graph.initializers) == before + count  # the codes, and their zero point
        assert session._with_own_weights(own) is own
