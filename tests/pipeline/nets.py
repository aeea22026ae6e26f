# SPDX-License-Identifier: Apache-2.0
"""Small float models for the tests: seeded weights, a free batch unless said otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str]


class Net:
    """A model under construction: nodes in order, weights by name."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.weights: dict[str, NDArray] = {}

    def input(self, name: str, dims: Dims, dtype: int = TensorProto.FLOAT) -> str:
        """A graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(dims)))
        return name

    def output(self, name: str, dims: Dims, dtype: int = TensorProto.FLOAT) -> None:
        """A graph output."""
        self.outputs.append(helper.make_tensor_value_info(name, dtype, list(dims)))

    def weight(self, name: str, *dims: int) -> str:
        """Normal weights of variance 1 / K; a matrix is [K, N]."""
        k = dims[0] if len(dims) < 3 else int(np.prod(dims[1:]))
        values = self.rng.standard_normal(dims) / np.sqrt(k)
        return self.array(name, values.astype(np.float32))

    def array(self, name: str, values: Any) -> str:
        """An initializer of these values."""
        self.weights[name] = np.asarray(values)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node named after its output."""
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], f"/{output}/{op}", **attributes)
        )
        return output

    def linear(self, x: str, k: int, n: int, name: str, *, relu: bool = False) -> str:
        """MatMul, Add and perhaps Relu."""
        y = self.node("MatMul", [x, self.weight(f"{name}.weight", k, n)], f"{name}_product")
        y = self.node("Add", [y, self.weight(f"{name}.bias", n)], f"{name}_sum" if relu else name)
        return self.node("Relu", [y], name) if relu else y

    def conv(self, x: str, n: int, c: int, name: str, kernel: int = 3, **attributes: Any) -> str:
        """Conv with a bias, of the input's size."""
        pad = kernel // 2
        weight = self.weight(f"{name}.weight", n, c, kernel, kernel)
        bias = self.weight(f"{name}.bias", n)
        return self.node("Conv", [x, weight, bias], name, pads=[pad] * 4, **attributes)

    def proto(self, *, check: bool = True) -> onnx.ModelProto:
        """The model, checked unless it is meant to be wrong."""
        tensors = [numpy_helper.from_array(v, k) for k, v in self.weights.items()]
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, tensors)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        if check:
            onnx.checker.check_model(model)
        return model

    def save(self, path: Path) -> Path:
        """Write the model and give its path back."""
        onnx.save(self.proto(), path)
        return path


def mlp(batch: int | str = "batch", seed: int = 0) -> Net:
    """Three products of K = 64: x float [batch, 64] → y float [batch, 16]."""
    net = Net(seed=seed)
    x = net.input("x", [batch, 64])
    x = net.linear(x, 64, 64, "first", relu=True)
    x = net.linear(x, 64, 64, "middle", relu=True)
    net.linear(x, 64, 16, "y")
    net.output("y", [batch, 16])
    return net


def cnn() -> Net:
    """Dense, depthwise and residual convolutions, pools and a Gemm.

    x float [batch, 3, 8, 8] → y float [batch, 10].
    """
    net = Net()
    x = net.input("x", ["batch", 3, 8, 8])
    x = net.node("Relu", [net.conv(x, 16, 3, "stem")], "stem_relu")
    y = net.node("Relu", [net.conv(x, 16, 1, "depthwise", group=16)], "depthwise_relu")
    y = net.conv(y, 16, 16, "pointwise", kernel=1)
    x = net.node("Relu", [net.node("Add", [x, y], "sum")], "residual")
    x = net.node("MaxPool", [x], "half", kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("GlobalAveragePool", [x], "mean")
    x = net.node("Flatten", [x], "row")
    weight, bias = net.weight("head.weight", 16, 10), net.weight("head.bias", 10)
    net.node("Gemm", [x, weight, bias], "y")
    net.output("y", ["batch", 10])
    return net


def tied() -> Net:
    """An embedding whose table is also the head.

    tokens int64 [batch, length] → y float [batch, length, 40].
    """
    net = Net()
    tokens = net.input("tokens", ["batch", "length"], TensorProto.INT64)
    table = net.weight("table", 40, 64)
    x = net.node("Gather", [table, tokens], "embedded")
    x = net.linear(x, 64, 64, "middle", relu=True)
    head = net.node("Transpose", [table], "head_weight", perm=[1, 0])
    net.node("MatMul", [x, head], "y")
    net.output("y", ["batch", "length", 40])
    return net


def samples(net: Net, count: int = 8, seed: int = 1) -> dict[str, NDArray]:
    """Random calibration data for the net's inputs: normal floats, integers below 40."""
    rng = np.random.default_rng(seed)
    feed: dict[str, NDArray] = {}
    for value in net.inputs:
        tensor = value.type.tensor_type
        dims = [d.dim_value or 5 for d in tensor.shape.dim[1:]]
        if tensor.elem_type == TensorProto.FLOAT:
            feed[value.name] = rng.standard_normal((count, *dims)).astype(np.float32)
        else:
            feed[value.name] = rng.integers(0, 40, (count, *dims))
    return feed
