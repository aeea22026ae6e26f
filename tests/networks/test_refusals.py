# SPDX-License-Identifier: Apache-2.0
"""What has no kernel is refused on the normalised graph, all of it at once, before calibration."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import shape_inference

import qcompile
from qcompile import network_check
from qcompile.compile import plan_only
from qcompile.errors import InputError
from qcompile.targets.tvm import toolchain
from tests.pipeline.nets import Net, samples

Body = Callable[[Net, str], str]
NO_MAP = "its input is no map of height, width and channels"
BEFORE = "it reads the input's floats: do it in the application, or after the first product"
SPLIT = "splits a dimension, or changes the batch; dimensions behind the batch can be swapped and"
CONSTANT = "it adds a constant to what is no product; two maps have a kernel"


def ints(net: Net, name: str, *values: int) -> str:
    return net.array(name, np.array(values, np.int64))


def cut(net: Net, x: str, start: int, end: int, axis: int, step: int) -> str:
    numbers = zip("seat", (start, end, axis, step), strict=True)
    return net.node("Slice", [x, *(ints(net, f"cut.{n}", v) for n, v in numbers)], "odd")


def pad(net: Net, x: str, *pads: int, **attributes: object) -> str:
    return net.node("Pad", [x, ints(net, "pads", *pads)], "odd", **attributes)


def halved(net: Net, x: str, **attributes: object) -> str:
    kind = {"kernel_shape": [2, 2], "strides": [2, 2], **attributes}
    return net.node("MaxPool", [x], "half", **kind)


def added(net: Net, x: str, value: np.ndarray) -> str:
    return net.node("Add", [halved(net, x), net.array("constant", value)], "odd")


def reshaped(net: Net, x: str, *dims: int) -> str:
    return net.node("Reshape", [x, ints(net, "dims", *dims)], "odd")


def scaled(net: Net, x: str) -> str:
    mean = net.node("GlobalAveragePool", [x], "mean")
    return net.node("Add", [x, net.conv(mean, 8, 8, "squeeze", kernel=1)], "odd")


def twice(net: Net, x: str) -> str:
    y = net.conv(x, 8, 8, "inner")
    return net.node("Add", [y, net.node("Relu", [y], "odd")], "both")


def turned(net: Net, x: str) -> str:
    return net.conv(net.node("Transpose", [x], "turn", perm=[0, 1, 3, 2]), 8, 8, "odd")


BEHIND_A_MAP: list[tuple[Body, str]] = [
    (lambda net, x: reshaped(net, x, 0, 2, 4, 8, 8), f"Reshape /odd/Reshape: it {SPLIT}"),
    (lambda net, x: net.node("Flatten", [x], "odd", axis=2), f"Flatten /odd/Flatten: it {SPLIT}"),
    (lambda net, x: net.node("Transpose", [x], "odd", perm=[1, 0, 2, 3]), "it moves the batch;"),
    (turned, f"Conv /odd/Conv: {NO_MAP}"),
    (lambda net, x: cut(net, x, 7, -99, 2, -1), "it cuts the batch, or runs backwards"),
    (lambda net, x: cut(net, x, 0, 1, 0, 1), "it cuts the batch, or runs backwards"),
    (
        lambda net, x: cut(net, net.node("Flatten", [x], "row"), 0, 100, 1, 1),
        "it cuts dimensions that hold several axes",
    ),
    (lambda net, x: pad(net, x, *[0, 0, 1, 1] * 2, mode="reflect"), "it is no Pad by a constant"),
    (lambda net, x: pad(net, x, 0, 0, -1, -1, 0, 0, 1, 1), "it pads the batch, or cuts"),
    (scaled, "it adds [8, 1, 1] to [8, 8, 8]; equal maps have a kernel there"),
    (lambda net, x: added(net, x, np.float32(1.5)), CONSTANT),
    (lambda net, x: added(net, x, np.ones((1, 8, 4, 4), np.float32)), CONSTANT),
    (twice, "other nodes read inner as well, so that it is no clip of it"),
    (
        lambda net, x: net.node("Relu", [halved(net, net.conv(x, 8, 8, "inner"))], "odd"),
        "it stands behind MaxPool: put it right behind the product or sum",
    ),
    (lambda net, x: halved(net, x, ceil_mode=1), "a maximum with dilations or ceil_mode has no"),
    (lambda net, x: halved(net, x, dilations=[2, 2]), "a maximum with dilations or ceil_mode"),
    (
        lambda net, x: net.node("MatMul", [x, net.weight("odd.weight", 8, 5)], "odd"),
        "its input has 4 dimensions; a product of rows (2) has a kernel there",
    ),
]
ON_THE_INPUT: list[tuple[list[int | str], Body, str]] = [
    ([3, 8, 8], lambda net, x: net.node("Relu", [x], "odd"), BEFORE),
    ([3, 8, 8], lambda net, x: halved(net, x), BEFORE),
    ([3, 8, 8], lambda net, x: pad(net, x, *[0, 0, 1, 1] * 2, mode="edge"), BEFORE),
    ([3, "h", "w"], lambda net, x: x, "input x: [batch,3,h,w]: a map or a row of known size has"),
]


def refusal(net: Net, folder: Path) -> list[str]:
    """The lines of the error that `--dry-run` for target tvm-cpu ends in."""
    model = net.save(folder / "net.onnx")
    with pytest.raises(InputError) as caught:
        plan_only(model, "tvm-cpu", qcompile.Recipe(preset="w8a8"), samples(net, 2))
    return str(caught.value).splitlines()


def behind_a_map(body: Body) -> Net:
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = body(net, net.node("Relu", [net.conv(x, 8, 3, "stem")], "stem_relu"))
    net.node("Identity", [x], "y")
    found = shape_inference.infer_shapes(net.proto(check=False)).graph.value_info
    (dims,) = (value.type.tensor_type.shape.dim for value in found if value.name == "y")
    net.output("y", [d.dim_value or d.dim_param or "free" for d in dims])
    return net


@pytest.mark.parametrize(("body", "reason"), BEHIND_A_MAP)
def test_behind_a_map(
    body: Body, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = refusal(behind_a_map(body), tmp_path)
    assert lines[0] == "target tvm-cpu: 1 node without a kernel" and reason in lines[1]
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    # The lowering finds none of it fit either: nothing is refused that would have compiled.
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    monkeypatch.setattr(network_check, "misplaced", lambda graph, known: [])
    net = behind_a_map(body)
    recipe = qcompile.Recipe(preset="w8a8", weight_rounding="nearest")
    with pytest.raises(InputError, match=r"without (a kernel|an integer form)"):
        qcompile.compile(
            tmp_path / "net.onnx", "tvm-cpu", recipe=recipe, calibration_data=samples(net, 2)
        )


@pytest.mark.parametrize(("dims", "body", "reason"), ON_THE_INPUT)
def test_on_the_input(dims: list[int | str], body: Body, reason: str, tmp_path: Path) -> None:
    net = Net()
    x = body(net, net.input("x", ["batch", *dims]))
    net.node("GlobalAveragePool", [net.conv(x, 4, 3, "stem")], "y")
    net.output("y", ["batch", 4, 1, 1])
    lines = refusal(net, tmp_path)
    assert lines[0] == "target tvm-cpu: 1 node without a kernel" and reason in lines[1]


def test_all_of_them_at_once_in_order(tmp_path: Path) -> None:
    """Operators, places, and what the plan finds; each node once."""
    net = Net()
    x = net.input("x", ["batch", 4, 8, 8])
    x = net.conv(x, 8, 1, "depthwise", group=4)
    x = net.node("Relu", [net.conv(x, 8, 8, "dense")], "relu")
    x = cut(net, x, 7, -99, 2, -1)
    x = net.conv(x, 8, 8, "after")
    x = net.node("Softmax", [x], "soft", axis=1)
    net.node("ReduceMean", [net.conv(x, 8, 8, "last")], "y", axes=[1], keepdims=1)
    net.output("y", ["batch", 1, 8, 8])
    lines = refusal(net, tmp_path)
    assert lines[0] == "target tvm-cpu: 4 nodes without a kernel"
    nodes = [line.split(":")[0].split()[-1] for line in lines[1:5]]
    assert nodes == ["/depthwise/Conv", "/odd/Slice", "/soft/Softmax", "/y/ReduceMean"]
    assert lines[5].startswith("end the model before those that come last")


def test_moves_that_cancel_are_no_refusal(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.conv(x, 8, 3, "stem")
    for name in ("there", "back"):
        x = net.node("Transpose", [x], name, perm=[1, 0, 2, 3])
    net.node("GlobalMaxPool", [net.conv(x, 8, 8, "next")], "y")
    net.output("y", ["batch", 8, 1, 1])
    plan, _ = plan_only(
        net.save(tmp_path / "net.onnx"), "tvm-cpu", qcompile.Recipe(preset="w8a8"), samples(net)
    )
    assert plan.coverage() == 1.0


def test_the_lowered_graph_is_checked_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Floats before the quantizer, where the first check missed them."""
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    monkeypatch.setattr(toolchain, "require_tvm", lambda: None)
    monkeypatch.setattr(network_check, "misplaced", lambda graph, known: [])
    net = Net()
    x = net.node("Relu", [net.input("x", ["batch", 3, 8, 8])], "odd")
    net.node("GlobalAveragePool", [net.conv(x, 4, 3, "stem")], "y")
    net.output("y", ["batch", 4, 1, 1])
    with pytest.raises(InputError, match=f"Relu /odd/Relu: {BEFORE}"):
        qcompile.compile(
            net.save(tmp_path / "net.onnx"), "tvm-cpu", calibration_data=samples(net, 2)
        )
