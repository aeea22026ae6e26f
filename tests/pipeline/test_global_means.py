# SPDX-License-Identifier: Apache-2.0
"""A mean over height and width, however it is written, is one QPool of the same codes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile.data import Batch, Data
from qcompile.reference import run_node
from qcompile.verify_nodes import record
from tests.pipeline.nets import Net

FORMS = {
    "ReduceMean, kept": (17, {"axes": [2, 3], "keepdims": 1}),
    "ReduceMean, dropped": (17, {"axes": [2, 3], "keepdims": 0}),
    "ReduceMean, dropped, from behind": (13, {"axes": [-1, -2], "keepdims": 0}),
    "ReduceMean-18, kept": (18, {"keepdims": 1}),
    "ReduceMean-18, dropped": (18, {"keepdims": 0}),
}


def net_of(opset: int, attributes: dict[str, object] | None) -> Net:
    """Conv, Relu, the mean, Gemm; x float [batch, 3, 7, 5] → y [batch, 10]."""
    net = Net(opset, seed=2)
    h = net.input("x", ["batch", 3, 7, 5])
    h = net.node("Conv", [h, net.weight("w", 24, 3, 3, 3), net.weight("b", 24)], "c")
    h = net.node("Relu", [h], "r")
    if attributes is None:
        h = net.node("GlobalAveragePool", [h], "m")
    elif "axes" in attributes:
        h = net.node("ReduceMean", [h], "m", **attributes)
    else:
        h = net.node("ReduceMean", [h, net.array("axes", np.array([2, 3]))], "m", **attributes)
    if attributes is None or attributes["keepdims"]:
        h = net.node("Flatten", [h], "f")
    net.output(net.node("Gemm", [h, net.weight("u", 24, 10), net.weight("k", 10)], "y"), ["b", 10])
    return net


DATA = np.random.default_rng(6).standard_normal((16, 3, 7, 5)).astype(np.float32)


def codes_of(net: Net, folder: Path) -> NDArray[np.uint8]:
    """What the one QPool of the compiled net writes for the data, which is what numerics says."""
    made = qcompile.compile(net.save(folder / "m.onnx"), calibration_data={"x": DATA}, force=True)
    assert made.content["preset"] == "w8a8" and made.content["coverage"] == 1
    model = made.model()
    assert not [n for n in model.graph if n.op_type in ("ReduceMean", "GlobalAveragePool")]
    (pool,) = [n for n in model.graph if n.op_type == "QPool"]
    (run,) = record(made, model, Data([{"x": DATA}], Batch.of(list(model.graph.inputs))))
    given, codes = run.values[pool.inputs[0].name], run.values[pool.outputs[0].name]
    assert given.dtype == codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, run_node(pool, [given])[0])
    return codes


@pytest.mark.parametrize("form", FORMS)
def test_codes(form: str, tmp_path: Path) -> None:
    wanted, found = (codes_of(net, tmp_path) for net in (net_of(17, None), net_of(*FORMS[form])))
    assert wanted.shape == (16, 1, 1, 24) and len(np.unique(wanted)) > 20
    np.testing.assert_array_equal(found, wanted)
