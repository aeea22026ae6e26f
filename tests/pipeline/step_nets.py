# SPDX-License-Identifier: Apache-2.0
"""A net whose activations grow with a time step, and data for it."""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tests.pipeline.nets import Dims, Net

STEPS = 8
GAINS = np.geomspace(1, 40, STEPS).astype(np.float32)


def growing(dims: Dims = ("batch",), dtype: int = TensorProto.INT64, gains: NDArray = GAINS) -> Net:
    """x float [batch, 3, 8, 8] and a step t → y float [batch, 8]: x · gains[t], three convolutions
    with Relu and SiLU between them, Flatten and Gemm.
    """
    net = Net()
    fixed = dims == (1,)
    x = net.input("x", [1 if fixed else "batch", 3, 8, 8])
    t = net.input("t", list(dims), dtype)
    shape = net.array("shape", np.array([-1, 1, 1, 1]))
    gain = net.node("Gather", [net.array("gains", gains), t], "gain")
    x = net.node("Mul", [x, net.node("Reshape", [gain, shape], "gain_map")], "scaled")
    x = net.node("Relu", [net.conv(x, 8, 3, "first")], "first_relu")
    x = net.conv(x, 8, 8, "second")
    x = net.node("Mul", [x, net.node("Sigmoid", [x], "gate")], "silu")
    x = net.node("Relu", [net.conv(x, 8, 8, "third", strides=[4, 4])], "third_relu")
    x = net.node("Flatten", [x], "flat")
    net.node("Gemm", [x, net.weight("head.weight", 32, 8), net.weight("head.bias", 8)], "y")
    net.output("y", [1 if fixed else "batch", 8])
    return net


def samples(net: Net, per_step: int = 8, seed: int = 1) -> list[dict[str, NDArray]]:
    """A feed of every step, as the net takes it: of a step without samples one x a feed more."""
    rng = np.random.default_rng(seed)
    t = net.inputs[1].type.tensor_type
    dims = [d.dim_value or d.dim_param for d in t.shape.dim]
    kind = np.int64 if t.elem_type == TensorProto.INT64 else np.int32
    rows = 1 if dims == [1] else per_step
    feeds = []
    for step in range(STEPS):
        for _ in range(per_step // rows):
            x = rng.standard_normal((rows, 3, 8, 8)).astype(np.float32)
            feeds.append({"x": x, "t": np.full([rows] * len(dims), step, kind)})
    return feeds
