# SPDX-License-Identifier: Apache-2.0
"""A window that is larger than its map is refused, and ends no process, wherever a file is run."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import qcompile
from qcompile.body_data import record_bodies
from qcompile.data import Batch, Data
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.session import open_model, run_float, session_options
from qcompile.windows import WindowedSession
from tests.cli.run import run
from tests.passes.stages import with_weights
from tests.pipeline.nets import Net

MISFIT = '"/p/{op}" looks at 5 of {size} places of axis 2, padded by 0 and 0'


def feed(size: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((2, 16, size, size), np.float32)}


def pooled(folder: Path, height: int | str = "height", op: str = "MaxPool") -> Path:
    net = Net()
    y = net.conv(net.input("x", ["batch", 16, height, height]), 16, 16, "c", 1)
    net.output(net.node(op, [y], "p", kernel_shape=[5, 5]), ["batch", 16, "oh", "ow"])
    return net.save(folder / "m.onnx")


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("height", [4, "height"])
def test_a_session_of_a_file(height: int | str, op: str, tmp_path: Path) -> None:
    """ONNX Runtime 1.32 ends the process where exactly no output is left: 4 places for 5."""
    session = open_model(load(pooled(tmp_path, height, op)), session_options(1))
    assert isinstance(session, WindowedSession)
    for _ in range(2):
        with pytest.raises(InputError, match=MISFIT.format(op=op, size=4)):
            run_float(session, None, feed(4))
    if height != 4:
        assert run_float(session, None, feed(5))[0].shape == (2, 16, 1, 1)
        with pytest.raises(InputError, match=MISFIT.format(op=op, size=3)):
            run_float(session, None, feed(3))


@pytest.mark.parametrize("command", ["compare", "bench", "bench --vs"])
def test_commands(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = pooled(tmp_path), tmp_path / "data.npz"
    np.savez(data, allow_pickle=False, **feed(4))
    paths = {"compare": [path], "bench": [], "bench --vs": ["--vs", path]}[command]
    found = run(capsys, command.split()[0], path, *paths, "--data", data)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: windows are larger than the maps of a sample")
    assert MISFIT.format(op="MaxPool", size=4) in found.err


def test_a_metric_of_other_sizes(tmp_path: Path) -> None:
    """The samples fit; what the user's function feeds does not."""
    path, seen = pooled(tmp_path), []

    def metric(session: object) -> float:
        seen.append(session)
        return float(session.run(None, feed(4))[0].size)  # type: ignore[attr-defined]

    with pytest.raises(InputError, match=MISFIT.format(op="MaxPool", size=4)):
        qcompile.compile(path, calibration_data=feed(8), metric=metric)
    assert len(seen) == 1 and not (tmp_path / "m.qc").exists()


IF = """f (float[b,16,h,h] x, bool c, float w) => (float[b,16,i,j] y)
{ y = If (c) <then_branch = t () => (float[b,16,i,j] z)
                { k = Conv (x, w)   z = MaxPool <kernel_shape = [5, 5]> (k) },
              else_branch = e () => (float[b,16,i,j] q) { q = Identity (x) }> }"""


def test_a_pool_in_a_body_is_not_blocked() -> None:
    """The branch that does not fit may not be the one that runs, so it is no error."""
    model = with_weights(IF, w=(16, 16, 1, 1))
    session = open_model(model, session_options(1))
    for taken, shape in ((True, (2, 16, 0, 0)), (False, (2, 16, 4, 4))):
        found = session.run(None, feed(4) | {"c": np.array(taken)})
        assert found[0].shape == shape


def test_bodies_that_are_recorded() -> None:
    """Each body runs as a model of its own."""
    model = with_weights(IF, w=(16, 16, 1, 1))
    for node in model.graph:
        node.name = "if"
    given = feed(4) | {"c": np.array(True)}
    found = record_bodies(model, Data([given], Batch({"x": 2})))
    assert len(found["if/then_branch"].feeds) == 1
    assert found["if/else_branch"].feeds == []


def test_sizes_that_onnx_does_not_infer() -> None:
    """Of a map whose size is computed the pool is not blocked, and gives what ONNX says."""
    graph = helper.make_graph(
        [
            helper.make_node("Resize", ["x", "", "", "sizes"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[5, 5]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", 1, ["b", 16, "h", "h"]),
            helper.make_tensor_value_info("sizes", 7, [4]),
        ],
        [helper.make_tensor_value_info("y", 1, ["b", 16, "i", "j"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    session = open_model(ir.from_proto(proto), session_options(1))
    assert not isinstance(session, WindowedSession)
    found = session.run(None, feed(8) | {"sizes": np.array([2, 16, 4, 4])})
    assert found[0].shape == (2, 16, 0, 0)
