# SPDX-License-Identifier: Apache-2.0
"""Graphs that are odd and sound: nodes in any order, initializers given twice."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import qcompile
from qcompile import measure
from qcompile.load import load
from qcompile.session import check_opens, open_model, session_options
from tests.pipeline.nets import Net, mlp, samples


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def test_nodes_in_any_order(tmp_path: Path) -> None:
    model = mlp().proto()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    artifact = qcompile.compile(tmp_path / "m.onnx")
    mlp().save(tmp_path / "sorted.onnx")
    again = qcompile.compile(tmp_path / "sorted.onnx")
    files = [(a.folder / "model.onnx").read_bytes() for a in (artifact, again)]
    assert files[0] == files[1]


def test_the_last_of_two_initializers_counts_as_in_onnxruntime(tmp_path: Path) -> None:
    net = mlp()
    model = net.proto()
    other = onnx.numpy_helper.from_array(np.full((16,), 3, np.float32), "y.bias")
    model.graph.initializer.append(other)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    feed = samples(net)
    (mine,) = open_model(load(path), session_options()).run(None, feed)
    (theirs,) = onnx_session(path).run(None, feed)
    np.testing.assert_array_equal(mine, theirs)


def onnx_session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, session_options())


def test_opening_reads_no_large_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    net.linear(net.input("x", ["batch", 64]), 64, 64, "y")
    net.output("y", ["batch", 64])
    path = net.save(tmp_path / "m.onnx")
    opened: list[int] = []
    session = qcompile.session.open_windowed
    monkeypatch.setattr(
        qcompile.session,
        "open_windowed",
        lambda m, data, o: opened.append(len(data)) or session(m, data, o),
    )
    check_opens(load(path))
    assert max(opened) < 64 * 64 * 4
