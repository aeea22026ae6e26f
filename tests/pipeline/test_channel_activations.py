# SPDX-License-Identifier: Apache-2.0
"""A static scale a channel in front of a depthwise convolution: by a rule, or as the model says."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile.artifact import Artifact
from qcompile.errors import InputError, VerificationError
from qcompile.graph import DOMAIN, constant
from qcompile.passes.lower.lowered import MULTIPLIER
from qcompile.recipe import Recipe, Rule
from tests.imported.quantized import run
from tests.pipeline.nets import Net, cnn, samples

CHANNELS = 16
FACTORS = np.geomspace(0.01, 1, CHANNELS).astype(np.float32)
BY_CHANNEL = Rule(match="/depthwise/.*", activation_granularity="axis")


def uneven(act: str = "Relu", **attributes: Any) -> Net:
    """A depthwise Conv between two pointwise ones, whose channels differ by a factor of 100.

    x float [batch, 3, 8, 8] → y float [batch, 8, 8, 8]
    """
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.node(act, [net.conv(x, CHANNELS, 3, "expand", kernel=1)], "expanded", **attributes)
    x = net.node("Relu", [net.conv(x, CHANNELS, 1, "depthwise", group=CHANNELS)], "filtered")
    net.conv(x, 8, CHANNELS, "y", kernel=1)
    net.output("y", ["batch", 8, 8, 8])
    for name, factor in (("expand", FACTORS), ("depthwise", 1 / FACTORS)):
        net.weights[f"{name}.weight"] *= factor[:, None, None, None]
    net.weights["expand.bias"] *= FACTORS
    return net


def made(
    net: Net, folder: Path, target: str = "cpu", preset: str = "w8a8", **rule: Any
) -> Artifact:
    rules = (Rule(**({"match": BY_CHANNEL.match, "activation_granularity": "axis"} | rule)),)
    return qcompile.compile(
        net.save(folder / "m.onnx"),
        target,
        recipe=Recipe(preset=preset, rules=rules),
        calibration_data=samples(net),
        force=True,
    )


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w8a4"])
def test_every_channel_has_its_range(method: str, preset: str, tmp_path: Path) -> None:
    """All is fused, every check holds, and the smallest channel is no longer lost; without scales
    in the weights, which would do the same here.
    """
    net, found = uneven(), {}
    for rules in ((), (BY_CHANNEL,)):
        artifact = qcompile.compile(
            net.save(tmp_path / "m.onnx"),
            recipe=Recipe(preset=preset, calibration_method=method, rotation="off", rules=rules),
            calibration_data=samples(net),
            force=True,
        )
        assert all(c["passed"] for c in artifact.measured["checks"])
        ops = [n.op_type for n in artifact.model().graph]
        assert ops.count("QConv") == 3 and ops.count("QuantizeLinear") == 1
        found[bool(rules)] = artifact.measured["sqnr_db"]
    assert found[True] > found[False] + 6  # a bit: half of the channels are below a fifth


def test_codes_reach_the_end_of_their_range(tmp_path: Path) -> None:
    """Calibration data of the float model: each channel's largest value has the code 255."""
    net = uneven()
    stages: dict[str, ir.Model] = {}
    qcompile.compile(
        net.save(tmp_path / "m.onnx"),
        recipe=Recipe(preset="w8a8", rotation="off", rules=(BY_CHANNEL,)),
        calibration_data=samples(net),
        inspect=lambda stage, _, after: stages.update({stage: after}),
    )
    quantizer = next(n for n in stages["transform"].graph if n.name == "expanded/quantize")
    scale, point = (constant(quantizer.inputs[i]) for i in (1, 2))
    weight, bias = net.weights["expand.weight"][:, :, 0, 0], net.weights["expand.bias"]
    reals = np.einsum("nc,bchw->bnhw", weight, samples(net)["x"]) + bias[:, None, None]
    largest = np.maximum(reals, 0).max((0, 2, 3))
    assert point.tolist() == [0] * CHANNELS
    np.testing.assert_array_equal(np.rint(largest / scale), [255] * CHANNELS)


def test_clip_and_numbers_below_zero(tmp_path: Path) -> None:
    """One zero point serves all channels, and the bounds of a Clip are one code in all."""
    net = uneven("LeakyRelu", alpha=0.3)
    artifact = made(net, tmp_path)
    assert all(c["passed"] for c in artifact.measured["checks"])
    assert "LeakyRelu: its output has a scale a channel" in str(artifact.content["float_nodes"])
    net = uneven("Clip")
    net.nodes[1].input.extend([net.array("low", np.float32(0)), net.array("high", np.float32(6))])
    ops = [n.op_type for n in made(net, tmp_path).model().graph]
    assert ops.count("QConv") == 3 and "Clip" not in ops


def test_wrong_multiplier_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: one channel's multiplier moved by one code's worth."""
    pipeline = sys.modules["qcompile.compile"]
    real = pipeline.lower

    def changed(*args: Any, **kwargs: Any) -> ir.Model:
        model = real(*args, **kwargs)
        convs = [n for n in model.graph if n.domain == DOMAIN and n.op_type == "QConv"]
        value = convs[1].inputs[MULTIPLIER]
        array = value.const_value.numpy().copy()
        array[3] *= np.float32(1 + 2**-8)
        value.const_value = ir.tensor(array, name=value.name)
        return model

    monkeypatch.setattr(pipeline, "lower", changed)
    with pytest.raises(VerificationError, match="lower: constants"):
        made(uneven(), tmp_path)


@pytest.mark.parametrize(
    ("target", "preset", "rule", "reason"),
    [
        ("cpu", "w8a8", {"match": "/expand/.*"}, "weight scales of a depthwise Conv, and of no"),
        ("ort", "w8a8", {}, "one activation scale a tensor: use --target cpu"),
        ("cpu", "w8a8-dynamic", {}, "about static activations: use preset w8a8"),
    ],
)
def test_refused(target: str, preset: str, rule: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        made(uneven(), tmp_path, target, preset, **rule)


def test_other_readers_are_refused(tmp_path: Path) -> None:
    """The input of cnn's depthwise Conv is added to its result, too."""
    with pytest.raises(InputError, match='Conv "/depthwise/Conv": its input has other readers'):
        made(cnn(), tmp_path, match="/depthwise/Conv")


def test_unknown_word() -> None:
    with pytest.raises(InputError, match='unknown activation granularity "row"'):
        Recipe(rules=(Rule(activation_granularity="row"),))


def quantized(points: np.ndarray) -> Net:
    """In codes: a depthwise Conv that reads a scale a channel. x, y float [batch, 16, 6, 6]."""
    net, rng = Net(), np.random.default_rng(3)
    x = net.input("x", ["batch", CHANNELS, 6, 6])
    net.array("xs", (0.03 * FACTORS).astype(np.float32))
    net.array("xz", points)
    net.array("ys", np.float32(0.02))
    net.array("yz", np.zeros((), points.dtype))
    net.array("w", rng.integers(-127, 128, (CHANNELS, 1, 3, 3)).astype(np.int8))
    net.array("ws", rng.uniform(0.01, 0.02, CHANNELS).astype(np.float32))
    x = net.node("QuantizeLinear", [x, "xs", "xz"], "x_codes", axis=1)
    x = net.node("DequantizeLinear", [x, "xs", "xz"], "x_real", axis=1)
    net.array("wz", np.zeros(CHANNELS, np.int8))
    w = net.node("DequantizeLinear", ["w", "ws", "wz"], "w_real", axis=0)
    y = net.node("Conv", [x, w, net.weight("b", CHANNELS)], "c", pads=[1] * 4, group=CHANNELS)
    y = net.node("QuantizeLinear", [y, "ys", "yz"], "y_codes")
    net.node("DequantizeLinear", [y, "ys", "yz"], "y")
    net.output("y", ["batch", CHANNELS, 6, 6])
    return net


@pytest.mark.parametrize("point", [np.uint8(128), np.uint8(7), np.int8(0), np.int8(-5)])
def test_as_the_model_says(point: np.generic, tmp_path: Path) -> None:
    net = quantized(np.full(CHANNELS, point))
    path = net.save(tmp_path / "m.onnx")
    artifact = qcompile.compile(path)
    (row,) = artifact.content["nodes"]
    assert row["activation"] == "uint8/axis(axis=1)/asym/f32" and row["kernel"] == "QConv static"
    assert all(c["passed"] for c in artifact.measured["checks"])
    feed = samples(net, seed=5)
    wanted, found = run(path, feed)[0], qcompile.load(artifact.folder).run(None, feed)[0]
    codes = [np.rint(v / np.float32(0.02)) for v in (wanted, found)]
    assert np.abs(codes[0] - codes[1]).max() <= 1  # a tie, or the float bias, which became codes


def test_several_zero_points_stay_as_in_the_model(tmp_path: Path) -> None:
    points = np.arange(CHANNELS, dtype=np.uint8)
    with pytest.raises(InputError, match="16 scales, and not one a channel with one zero point"):
        qcompile.compile(quantized(points).save(tmp_path / "m.onnx"))
