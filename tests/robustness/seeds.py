# SPDX-License-Identifier: Apache-2.0
"""The whole models, recipes and artifacts that are damaged, and what is needed to use them."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qcompile
from qcompile.graph import DOMAIN
from tests.imported import quantized
from tests.packaging.source_tree import ROOT
from tests.pipeline import nets, odd_nets, test_recurrent
from tests.pipeline.nets import Net, samples

DYNAMIC = ("w8a8-dynamic", "w4a16", "w2a4-dynamic")
STATIC = ("w8a8", "w4a4")
NETS: dict[str, Callable[[], Net]] = {
    **{"mlp": nets.mlp, "cnn": nets.cnn, "tied": nets.tied, "lstm": test_recurrent.net},
    **{"branches": odd_nets.branches, "old": odd_nets.opset_11},
}
# What an artifact is made of; together they have every op of the library.
ARTIFACTS = (
    *(("wide", "w8a8"), ("wide", "w4a8-dynamic"), ("tied", "w4a16"), ("tied", "w8a8-dynamic")),
    *(("cnn", "w2a8"), ("mlp", "w2a4-dynamic"), ("coded", "w8a8-dynamic")),
    *(("rows", "w8a8"), ("integers", "w4a8"), ("heads", "w8a8-dynamic")),
    *(("powers", "w8a8"), ("twins", "w8a8")),
)


def wide() -> Net:
    """Every static op: convolutions of all kinds, sums, products, tables, pools, Resize."""
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.node("Relu", [net.conv(x, 16, 3, "stem")], "stem_relu")
    y = net.node("Relu", [net.conv(x, 16, 1, "depthwise", group=16)], "depthwise_relu")
    y = net.conv(y, 16, 8, "grouped", group=2)
    gate = net.node("Sigmoid", [net.conv(x, 16, 16, "gate", kernel=1)], "sigmoid")
    x = net.node("Add", [x, net.node("Mul", [y, gate], "product")], "sum")
    x = net.node("MaxPool", [x], "half", kernel_shape=[2, 2], strides=[2, 2])
    scales = net.array("scales", np.array([1, 1, 2, 2], np.float32))
    x = net.conv(net.node("Resize", [x, "", scales], "up", mode="linear"), 16, 16, "after")
    x = net.node("AveragePool", [x], "quarter", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("GlobalAveragePool", [net.conv(x, 16, 16, "last", kernel=1)], "mean")
    x = net.linear(net.node("Flatten", [x], "row"), 16, 16, "fc", relu=True)
    net.linear(x, 16, 10, "y")
    net.output("y", ["batch", 10])
    return net


def rows() -> Net:
    """LayerNormalization, Softmax and attention between products."""
    net = Net()
    x = net.linear(net.input("x", ["batch", 16]), 16, 32, "first")
    scale, bias = net.weight("norm.scale", 32), net.weight("norm.bias", 32)
    x = net.node("LayerNormalization", [x, scale, bias], "norm", axis=-1)
    x = net.node("Softmax", [net.linear(x, 32, 32, "second")], "shares", axis=-1)
    heads, flat = net.array("heads", np.int64([0, 4, 8])), net.array("flat", np.int64([0, 32]))
    q = net.node("Reshape", [x, heads], "heads_of")  # attends to itself: q, k and v are the same
    scores = net.node("MatMul", [q, net.node("Transpose", [q], "turned", perm=[0, 2, 1])], "scores")
    weights = net.node("Softmax", [scores], "weights", axis=-1)
    x = net.node("Reshape", [net.node("MatMul", [weights, q], "attended"), flat], "joined")
    net.linear(x, 32, 10, "y")
    net.output("y", ["batch", 10])
    return net


def heads() -> Net:
    """Attention of floats, of one head."""
    net = Net()
    x = net.input("x", ["batch", 64, 32])
    q, k, v = (net.linear(x, 32, 32, name) for name in "qkv")
    scores = net.node("MatMul", [q, net.node("Transpose", [k], "turned", perm=[0, 2, 1])], "scores")
    weights = net.node("Softmax", [scores], "weights", axis=-1)
    net.linear(net.node("MatMul", [weights, v], "attended"), 32, 10, "y")
    net.output("y", ["batch", 64, 10])
    return net


MADE = {"wide": wide, "coded": nets.mlp, "rows": rows, "integers": nets.cnn, "heads": heads}
MADE |= {"powers": rows, "twins": rows}
SOFTMAX = {"powers": "log2_4", "twins": "twin4"}


def write_models(folder: Path) -> list[str]:
    """Write the models, float and quantized, with data for the float ones; their names."""
    for name, make in NETS.items():
        made = make()
        made.save(folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **odd_nets.data_for(made))
    for form, w in (("qdq", "s8"), ("operators", "u8")):  # u8 × s8 saturates without VNNI
        path = quantized.static(nets.cnn(), folder, form, "u8", w, per_channel=w == "s8")
        path.rename(folder / f"{form}.onnx")
    quantized.dynamic(nets.mlp(), folder, "s8").rename(folder / "integer.onnx")
    (folder / "float.onnx").unlink()
    onnx.save(
        nets.mlp().proto(),
        folder / "outside.onnx",
        save_as_external_data=True,
        location="outside.data",
        size_threshold=0,
    )
    return [*NETS, "qdq", "operators", "integer", "outside"]


def write_artifacts(folder: Path) -> list[str]:
    """Compile the artifacts; their folders' names."""
    for name, preset in ARTIFACTS:
        net = MADE.get(name) or NETS[name]
        path = net().save(folder / f"{name}.{preset}.onnx")
        data = samples(net()) if preset in ("w8a8", "w2a8", "w4a8") else None
        out = folder / f"{name}.{preset}.qc"
        recipe = qcompile.Recipe(preset=preset, integer_only=name == "integers")
        recipe = replace(recipe, softmax_format=SOFTMAX.get(name))
        qcompile.compile(path, output=out, recipe=recipe, calibration_data=data)
        path.unlink()
        if name == "coded":
            _append_coding(out / "model.onnx")
    return [f"{name}.{preset}.qc" for name, preset in ARTIFACTS]


def _append_coding(path: Path) -> None:
    """Quantize and Dequantize of every granularity, and Hadamard, behind y [batch, 16]."""
    model = onnx.load(path, load_external_data=False)
    rng = np.random.default_rng(0)
    kinds = {
        "row": ({}, (), False),
        "tensor": ({"is_signed": 1}, (), True),
        "axis": ({"axis": 1}, (16,), True),
        "block": ({"axis": 0, "block_size": 4}, (2, 16), True),
    }
    constant = numpy_helper.from_array(rng.standard_normal((8, 16)).astype(np.float32), "block_x")
    model.graph.initializer.append(constant)
    for kind, (more, dims, has_points) in kinds.items():
        x, names = "block_x" if kind == "block" else "y", []
        if kind != "row":
            scale = numpy_helper.from_array(
                rng.uniform(0.1, 1, dims).astype(np.float32), f"{kind}_s"
            )
            points = numpy_helper.from_array(np.ones(dims, np.int8), f"{kind}_z")
            model.graph.initializer.extend([scale, points])
            names = [f"{kind}_s", f"{kind}_z"][: 1 + has_points]
        facts = {"bits": 4, "is_signed": 1, "granularity": kind} | more
        codes, used, back = f"{kind}_codes", f"{kind}_used", f"{kind}_y"
        first = helper.make_node(
            "Quantize", [x, *names], [codes, used], kind, domain=DOMAIN, **facts
        )
        scales = [used, *names[1:]]
        if kind == "row":  # a row is an axis of its own
            facts |= {"granularity": "row"}
        second = helper.make_node(
            "Dequantize", [codes, *scales], [back], back, domain=DOMAIN, **facts
        )
        model.graph.node.extend([first, second])
        model.graph.output.append(helper.make_tensor_value_info(back, TensorProto.FLOAT, None))
    facts = {"K": 16, "hadamard": 8, "hadamard_seed": 3}
    model.graph.node.append(
        helper.make_node("Hadamard", ["y"], ["turned"], "turned", domain=DOMAIN, **facts)
    )
    model.graph.output.append(helper.make_tensor_value_info("turned", TensorProto.FLOAT, None))
    path.write_bytes(model.SerializeToString())


def library_ops() -> set[str]:
    """The ops that the C++ library registers."""
    text = "".join(p.read_text() for p in (ROOT / "runtime_ops/ops").glob("*.cc"))
    return set(re.findall(r'emplace_back\(\s*"(\w+)"', text))
