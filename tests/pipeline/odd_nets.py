# SPDX-License-Identifier: Apache-2.0
"""Models that are legal and unusual, and data for them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.pipeline.nets import Net, mlp

NETS: dict[str, Callable[[], Net]] = {}
RNG = np.random.default_rng(3)


def odd(make: Callable[[], Net]) -> Callable[[], Net]:
    NETS[make.__name__] = make
    return make


def x64() -> tuple[Net, str]:
    net = Net()
    return net, net.input("x", ["batch", 64])


def ended(net: Net, x: str) -> Net:
    """A last product of K = 64 and the output."""
    net.linear(x, 64, 16, "y")
    net.output("y", ["batch", 16])
    return net


@odd
def two_inputs() -> Net:
    net, x = x64()
    other = net.input("other", ["batch", 32])
    return ended(net, net.node("Add", [x, net.linear(other, 32, 64, "l")], "sum"))


@odd
def scalar_and_vector_inputs() -> Net:
    """Inputs without a sample axis beside one that has it."""
    net, x = x64()
    gain, mask = net.input("gain", []), net.input("mask", [64])
    scaled = net.node("Mul", [net.linear(x, 64, 64, "l"), gain], "scaled")
    return ended(net, net.node("Mul", [scaled, mask], "masked"))


@odd
def bool_input() -> Net:
    net, x = x64()
    mask = net.input("mask", ["batch", 64], TensorProto.BOOL)
    zero = net.array("zero", np.float32(0))
    return ended(net, net.node("Where", [mask, x, zero], "masked"))


@odd
def float16_input() -> Net:
    net = Net()
    x = net.input("x", ["batch", 64], TensorProto.FLOAT16)
    return ended(net, net.node("Cast", [x], "wide", to=TensorProto.FLOAT))


@odd
def string_input() -> Net:
    net, x = x64()
    label = net.input("label", ["batch"], TensorProto.STRING)
    net.node("Identity", [label], "same_label")
    net.output("same_label", ["batch"], TensorProto.STRING)
    return ended(net, x)


@odd
def int32_tokens() -> Net:
    net = Net()
    tokens = net.input("tokens", ["batch", 5], TensorProto.INT32)
    x = net.node("Gather", [net.weight("table", 40, 64), tokens], "embedded")
    net.linear(x, 64, 16, "y")
    net.output("y", ["batch", 5, 16])
    return net


@odd
def fixed_batch() -> Net:
    return mlp(batch=4)


@odd
def two_fixed_batches() -> Net:
    """Eight samples of one are two runs, of the other four: both must give as many."""
    net = Net()
    net.linear(net.input("a", [4, 64]), 64, 16, "l")
    net.linear(net.input("b", [4, 32]), 32, 16, "m")
    net.output("l", [4, 16])
    net.output("m", [4, 16])
    return net


@odd
def input_is_output() -> Net:
    net = mlp()
    net.output("x", ["batch", 64])
    return net


@odd
def inner_values_are_outputs() -> Net:
    net = mlp()
    net.output("middle", ["batch", 64])
    net.output("first_sum", ["batch", 64])
    net.output("middle_product", ["batch", 64])
    return net


@odd
def constants_are_outputs() -> Net:
    net = mlp()
    net.output("y.bias", [16])
    net.output("first.weight", [64, 64])
    return net


@odd
def initializer_is_input() -> Net:
    net = mlp()
    net.input("first.weight", [64, 64])
    return net


@odd
def odd_names() -> Net:
    net = Net()
    x = net.linear(net.input("x:0 é/\\\"'", ["batch", 64]), 64, 64, "名 前", relu=True)
    net.linear(x, 64, 16, "../y;$(rm)")
    net.output("../y;$(rm)", ["batch", 16])
    return net


@odd
def no_names() -> Net:
    net = mlp()
    for node in net.nodes:
        node.name = ""
    return net


@odd
def half_weights_beside() -> Net:
    net = mlp()
    half = net.node("Cast", ["y"], "half", to=TensorProto.FLOAT16)
    net.node("MatMul", [half, net.array("w", np.ones((16, 4), np.float16))], "z")
    net.output("z", ["batch", 4], TensorProto.FLOAT16)
    return net


@odd
def already_quantized() -> Net:
    net, x = x64()
    scale, zero = net.array("scale", np.float32(0.05)), net.array("zero", np.int8(0))
    codes = net.array("codes", RNG.integers(-127, 127, (64, 64)).astype(np.int8))
    w = net.node("DequantizeLinear", [codes, scale, zero], "w")
    q = net.node("QuantizeLinear", [x, scale, zero], "q")
    d = net.node("DequantizeLinear", [q, scale, zero], "d")
    return ended(net, net.node("MatMul", [d, w], "h"))


@odd
def branches() -> Net:
    """If: one branch has a weight of its own, one reads the main graph's."""
    net, x = x64()
    choice = net.input("choice", [], TensorProto.BOOL)
    h = net.linear(x, 64, 64, "first", relu=True)
    own = numpy_helper.from_array(np.eye(64, dtype=np.float32), "own")
    out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch", 64])]
    then = [helper.make_node("MatMul", [h, "own"], ["t"], "product")]
    other = [helper.make_node("MatMul", [h, "first.weight"], ["t"], "product")]
    net.node(
        "If",
        [choice],
        "z",
        then_branch=helper.make_graph(then, "then", [], out, [own]),
        else_branch=helper.make_graph(other, "else", [], out),
    )
    return ended(net, "z")


@odd
def loop() -> Net:
    net, x = x64()
    h = net.linear(x, 64, 64, "first", relu=True)
    net.weight("inner", 64, 64)
    trips, yes = net.array("trips", np.array(3)), net.array("yes", np.array(True))
    info = helper.make_tensor_value_info
    state = [info("s", TensorProto.FLOAT, ["batch", 64])]
    nodes = [
        helper.make_node("MatMul", ["s", "inner"], ["p"], "product"),
        helper.make_node("Tanh", ["p"], ["t"], "tanh"),
        helper.make_node("Identity", ["go"], ["on"], "on"),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), *state],
        [info("on", TensorProto.BOOL, []), info("t", TensorProto.FLOAT, ["batch", 64])],
    )
    return ended(net, net.node("Loop", [trips, yes, h], "z", body=body))


@odd
def zero_weights() -> Net:
    net = mlp()
    net.weights["middle.weight"] = np.zeros((64, 64), np.float32)
    return net


@odd
def one_by_one() -> Net:
    net = Net()
    net.linear(net.input("x", ["batch", 1]), 1, 1, "y")
    net.output("y", ["batch", 1])
    return net


@odd
def opset_11() -> Net:
    net = Net(opset=11)
    net.linear(net.input("x", ["batch", 64]), 64, 16, "y")
    net.output("y", ["batch", 16])
    return net


@odd
def indices_beside_floats() -> Net:
    net = mlp()
    net.node("ArgMax", ["y"], "best", axis=1)
    net.output("best", ["batch", 1], TensorProto.INT64)
    return net


def data_for(net: Net) -> dict[str, NDArray]:
    """Eight samples of inputs with a free or fixed batch; other inputs have their own shape."""
    found: dict[str, NDArray] = {}
    for value in net.inputs:
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        fixed = not dims or (dims[0] != 0 and len(dims) == 1)
        shape = dims if fixed else [8, *dims[1:]]
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if value.name in net.weights:
            continue
        if kind.kind == "f":
            found[value.name] = RNG.standard_normal(shape).astype(kind)
        elif tensor.elem_type == TensorProto.STRING:
            found[value.name] = np.full(shape, "label")
        else:
            found[value.name] = RNG.integers(0, 2 if kind.kind == "b" else 20, shape).astype(kind)
    return found
