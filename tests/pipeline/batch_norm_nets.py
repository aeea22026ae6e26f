# SPDX-License-Identifier: Apache-2.0
"""Small nets with BatchNormalizations whose statistics are those of given data, as training leaves.

β and |γ| are then mean and deviation of what they give, but for the epsilon, which is 0 here.
"""

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from qcompile.session import session_options
from tests.pipeline.nets import Net

BATCH = 64


def norm(net: Net, x: str, channels: int, name: str, epsilon: float = 0.0) -> str:
    """A BatchNormalization that `fitted` fills in."""
    scale = net.array(f"{name}.scale", net.rng.uniform(-2, 2, channels).astype(np.float32))
    shift = net.array(f"{name}.shift", net.rng.standard_normal(channels).astype(np.float32))
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    rest = [net.array(f"{name}.mean", zeros), net.array(f"{name}.variance", ones)]
    return net.node("BatchNormalization", [x, scale, shift, *rest], name, epsilon=epsilon)


def fitted(net: Net, seed: int = 3) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """The model, and the normal random inputs whose statistics it has, layer after layer."""
    rng = np.random.default_rng(seed)
    dims = [d.dim_value for d in net.inputs[0].type.tensor_type.shape.dim[1:]]
    x = rng.standard_normal((BATCH, *dims)).astype(np.float32)
    for node in net.nodes:
        if node.op_type == "BatchNormalization":
            value = values_of(net.proto(), {net.inputs[0].name: x}, [node.input[0]])[0]
            axes = tuple(i for i in range(value.ndim) if i != 1)
            wide = value.astype(np.float64)
            net.weights[node.input[3]] = wide.mean(axes).astype(np.float32)
            net.weights[node.input[4]] = wide.var(axes).astype(np.float32)
    return net.proto(), x


def with_norms(model: onnx.ModelProto, x: NDArray[np.float32]) -> onnx.ModelProto:
    """A trained model with a BatchNormalization behind every Conv, which was folded into it.

    Each changes nothing and holds the statistics of the samples x. Epsilon is torch's.
    """
    made, epsilon = onnx.ModelProto(), 1e-5
    made.CopyFrom(model)
    names = [n.output[0] for n in model.graph.node if n.op_type == "Conv"]
    found = dict(zip(names, values_of(model, {model.graph.input[0].name: x}, names), strict=True))
    del made.graph.node[:]
    for node in model.graph.node:
        made.graph.node.append(node)
        if node.op_type != "Conv":
            continue
        name = node.output[0]
        mean = found[name].mean((0, 2, 3), dtype=np.float64)
        variance = found[name].var((0, 2, 3), dtype=np.float64)
        arrays = {"scale": np.sqrt(variance + epsilon), "shift": mean}
        arrays |= {"mean": mean, "variance": variance}
        for part, array in arrays.items():
            tensor = numpy_helper.from_array(array.astype(np.float32), f"{name}_{part}")
            made.graph.initializer.append(tensor)
        made.graph.node[-1].output[0] = f"{name}_raw"
        inputs = [f"{name}_raw", *(f"{name}_{part}" for part in arrays)]
        norm_node = helper.make_node("BatchNormalization", inputs, [name], epsilon=epsilon)
        made.graph.node.append(norm_node)
    return made


def values_of(
    model: onnx.ModelProto, feed: dict[str, NDArray], names: list[str]
) -> list[NDArray[np.float32]]:
    """Any values of a model, as ONNX Runtime computes them without optimisations."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {o.name for o in shown.graph.output} | {i.name for i in shown.graph.input}
    fresh = [n for n in dict.fromkeys(names) if n not in known]
    shown.graph.output.extend(onnx.ValueInfoProto(name=n) for n in fresh)
    options = session_options(1, optimise=False)
    session = ort.InferenceSession(shown.SerializeToString(), options)
    read = [n for n in names if n not in feed]
    found = dict(zip(read, session.run(read, feed) if read else [], strict=True)) | feed
    return [np.asarray(found[n]) for n in names]


def residual() -> Net:
    """Convolutions, a depthwise one, pools, sums, a gate, a factor that folds, a classifier.

    x float [batch, 3, 8, 8] → y float [batch, 10].
    """
    net = Net(seed=1)
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.node("Relu", [norm(net, net.conv(x, 16, 3, "stem"), 16, "stem_norm")], "stem_relu")
    y = norm(net, net.conv(x, 16, 1, "depthwise", group=16), 16, "depthwise_norm")
    y = net.node("Mul", [y, net.array("half", np.full((1, 16, 1, 1), 0.5, np.float32))], "halved")
    y = net.node("Mul", [y, net.node("Sigmoid", [y], "gate")], "swish")
    y = norm(net, net.conv(y, 16, 16, "pointwise", kernel=1), 16, "pointwise_norm")
    x = net.node("Relu", [net.node("Add", [x, y], "sum")], "after_sum")
    y = net.node("AveragePool", [x], "blurred", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = net.node("Concat", [x, y], "both", axis=1)
    x = norm(net, net.conv(x, 8, 32, "mix", kernel=1), 8, "mix_norm")
    x = net.node("MaxPool", [x], "half_size", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "mean")], "row")
    net.node("Gemm", [x, net.weight("head.weight", 8, 10), net.weight("head.bias", 10)], "y")
    net.output("y", ["batch", 10])
    return net


def before_activation() -> Net:
    """BatchNormalizations that no convolution takes: on the input, and on a stream before Relu.

    x float [batch, 3, 8, 8] → y float [batch, 8, 8, 8].
    """
    net = Net(seed=2)
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.conv(norm(net, x, 3, "input_norm"), 16, 3, "stem")
    y = net.node("Relu", [norm(net, x, 16, "first_norm")], "first_relu")
    x = net.node("Add", [x, net.conv(y, 16, 16, "inner")], "stream")
    y = net.node("Relu", [norm(net, x, 16, "last_norm")], "last_relu")
    net.conv(y, 8, 16, "y")
    net.output("y", ["batch", 8, 8, 8])
    return net


def transposed() -> Net:
    """A transposed convolution. x float [batch, 4, 6, 6] → y float [batch, 5, 12, 12]."""
    net = Net(seed=3)
    x = net.input("x", ["batch", 4, 6, 6])
    weight = net.weight("up.weight", 4, 6, 4, 4)
    x = net.node("ConvTranspose", [x, weight], "up", strides=[2, 2], pads=[1, 1, 1, 1])
    x = net.node("Relu", [norm(net, x, 6, "up_norm")], "up_relu")
    net.conv(x, 5, 6, "y")
    net.output("y", ["batch", 5, 12, 12])
    return net


def one_dimensional() -> Net:
    """1-D convolutions. x float [batch, 4, 20] → y float [batch, 5, 20]."""
    net = Net(seed=4)
    x = net.input("x", ["batch", 4, 20])
    for number, channels in enumerate((4, 8)):
        weight = net.weight(f"c{number}.weight", 8, channels, 3)
        x = net.node("Conv", [x, weight], f"c{number}", pads=[1, 1])
        x = net.node("Relu", [norm(net, x, 8, f"n{number}")], f"r{number}")
    net.node("Conv", [x, net.weight("y.weight", 5, 8, 3)], "y", pads=[1, 1])
    net.output("y", ["batch", 5, 20])
    return net


def dense() -> Net:
    """Gemm and MatMul with normalised outputs. x float [batch, 32] → y float [batch, 10]."""
    net = Net(seed=5)
    x = net.input("x", ["batch", 32])
    weight, bias = net.weight("a.weight", 48, 32), net.weight("a.bias", 48)
    x = net.node("Gemm", [x, weight, bias], "a", transB=1)
    x = net.node("Relu", [norm(net, x, 48, "a_norm")], "a_relu")
    x = net.node("MatMul", [x, net.weight("b.weight", 48, 64)], "b")
    x = net.node("Tanh", [norm(net, x, 64, "b_norm")], "b_tanh")
    net.linear(x, 64, 10, "y")
    net.output("y", ["batch", 10])
    return net


NETS = (residual, before_activation, transposed, one_dimensional, dense)
