# SPDX-License-Identifier: Apache-2.0
"""The largest dynamic activations below 8 bits clip where the outputs lose less by it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qcompile
from qcompile import reach_choice
from qcompile.compile import compile
from qcompile.recipe import Recipe, Rule
from qcompile.spec import QuantSpec
from tests.pipeline.nets import Net

K = 96


def matrices() -> Net:
    net = Net()
    x = net.input("x", ["b", K])
    h = net.linear(x, K, 64, "h", relu=True)
    net.linear(h, 64, 8, "y")
    net.output("y", ["b", 8])
    return net


def maps() -> Net:
    net = Net()
    x = net.input("x", ["b", 6, 8, 8])
    net.node("Relu", [net.conv(x, 8, 3, "h", group=2)], "y")
    net.output("y", ["b", 8, 8, 8])
    return net


def data(net: Net, *, equal: bool, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Of Laplace's density, or equal: all elements are 1 or -1."""
    rng = np.random.default_rng(seed)
    shape = [16 if d == "b" else d for d in dims(net)]
    found = [rng.laplace(size=shape).astype(np.float32) for _ in range(40)]
    return [{"x": np.sign(x) if equal else x} for x in found]


def dims(net: Net) -> list[int | str]:
    kinds = net.inputs[0].type.tensor_type.shape.dim
    return [d.dim_param or d.dim_value for d in kinds]


def compiled(net: Net, folder: Path, *, equal: bool = False, **given) -> qcompile.Artifact:
    recipe = Recipe("w8a4-dynamic", rotation="off", edge_bits=4, effort="quick", **given)
    path = net.save(folder / "m.onnx")
    feeds = data(net, equal=equal)
    return compile(path, recipe=recipe, calibration_data=feeds, force=True)


def reaches(artifact: qcompile.Artifact) -> list[float | None]:
    nodes = onnx.load(artifact.folder / "model.onnx").graph.node
    products = [n for n in nodes if n.op_type in ("QMatMul", "QConv")]
    found = [{a.name: a.f for a in n.attribute}.get("activation_reach") for n in products]
    assert found
    return found


def error(artifact: qcompile.Artifact, net: Net) -> float:
    """Noise ÷ signal of the artifact on other inputs than it was made with."""
    feed = {"x": np.concatenate([f["x"] for f in data(net, equal=False, seed=1)])}
    exact = ort.InferenceSession(net.proto().SerializeToString())
    coded = qcompile.load(artifact.folder, trust_library=True)
    wanted, found = exact.run(None, feed)[0], coded.run(None, feed)[0]
    return float(((wanted - found) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize("make", [matrices, maps])
def test_clipping_betters_the_artifact(make, tmp_path: Path, monkeypatch) -> None:
    net = make()
    found = compiled(net, tmp_path)
    assert all(r is not None and r > 7 for r in reaches(found))
    clipped = error(found, net)
    monkeypatch.setattr(reach_choice, "RATIOS", (1.0,))
    plain = compiled(net, tmp_path)
    assert reaches(plain) == [None] * len(reaches(plain))
    assert clipped < 0.95 * error(plain, net)


def test_nothing_clips_where_that_loses(tmp_path: Path) -> None:
    assert reaches(compiled(matrices(), tmp_path, equal=True))[0] is None


def test_what_is_said_of_it(tmp_path: Path) -> None:
    artifact = compiled(matrices(), tmp_path)
    (note,) = (n for n in artifact.content["notes"] if n.startswith("dynamic activations below"))
    assert note.endswith("by the error of the outputs on the data")
    spec = QuantSpec.parse(artifact.content["nodes"][0]["activation"])
    assert spec.reach == pytest.approx(reaches(artifact)[0])


def test_values_read_at_several_bits_keep_their_scales(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", ["b", K])
    net.node("Add", [net.linear(x, K, 16, "a"), net.linear(x, K, 16, "c")], "y")
    net.output("y", ["b", 16])
    artifact = compiled(net, tmp_path, rules=(Rule("/c.*", preset="w8a8-dynamic"),))
    assert reaches(artifact) == [None, None]
    assert not any(n.startswith("dynamic activations") for n in artifact.content["notes"])
