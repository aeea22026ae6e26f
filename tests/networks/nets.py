# SPDX-License-Identifier: Apache-2.0
"""Float models that the targets with a library take: every operator and layout once."""

import numpy as np

from tests.pipeline.nets import Net


def shortcut(batch: int | str = "batch") -> Net:
    """A residual net with a shortcut of Slice and Pad (He et al. 2016, option A).

    x float [batch, 3, 9, 8] → y float [batch, 5]; maximum, strides, a mean, a classifier.
    """
    net = Net()
    x = net.input("x", [batch, 3, 9, 8])
    x = net.node("Relu", [net.conv(x, 12, 3, "stem")], "stem_relu")
    x = net.node("MaxPool", [x], "top", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = net.node("Relu", [net.conv(x, 12, 12, "first")], "first_relu")
    y = net.conv(y, 12, 12, "second")
    x = net.node("Relu", [net.node("Add", [y, x], "sum")], "block")
    cut = [net.array(name, values) for name, values in CUTS.items()]
    side = net.node("Slice", [x, *cut], "cut")
    side = net.node("Pad", [side, net.array("pads", PADS)], "padded")
    y = net.conv(x, 20, 12, "down", strides=[2, 2])
    x = net.node("Relu", [net.node("Add", [side, y], "sum2")], "block2")
    x = net.node("GlobalAveragePool", [x], "mean")
    x = net.node("Flatten", [x], "row")
    net.node("Gemm", [x, net.weight("head", 20, 5), net.weight("head_bias", 5)], "y")
    net.output("y", [batch, 5])
    return net


CUTS = {
    "starts": np.array([0, 0], np.int64),
    "ends": np.array([2**31, 2**31], np.int64),
    "axes": np.array([2, 3], np.int64),
    "steps": np.array([2, 2], np.int64),
}
PADS = np.array([0, 4, 0, 0, 0, 4, 0, 0], np.int64)


def projected() -> Net:
    """Both terms of a sum are convolutions; the classifier reads a whole map, flattened NCHW."""
    net = Net(seed=1)
    x = net.input("x", ["batch", 4, 6, 5])
    x = net.node("Relu", [net.conv(x, 9, 4, "stem")], "stem_relu")
    a = net.conv(x, 8, 9, "left", strides=[2, 1])
    b = net.conv(x, 8, 9, "right", kernel=1, strides=[2, 1])
    x = net.node("Relu", [net.node("Add", [a, b], "sum")], "block")
    x = net.node("Sub", [x, net.conv(x, 8, 8, "less")], "difference")
    x = net.node("Relu", [x], "difference_relu")
    x = net.node("Reshape", [x, net.array("flat", np.array([0, -1], np.int64))], "row")
    net.linear(x, 8 * 3 * 5, 7, "y")
    net.output("y", ["batch", 7])
    return net


def channels_last() -> Net:
    """The input is NHWC, and so is the output, a map."""
    net = Net(seed=2)
    x = net.input("x", ["batch", 7, 6, 3])
    x = net.node("Transpose", [x], "nchw", perm=[0, 3, 1, 2])
    x = net.node("Relu", [net.conv(x, 10, 3, "stem")], "stem_relu")
    x = net.conv(x, 4, 10, "last")
    net.node("Transpose", [x], "y", perm=[0, 2, 3, 1])
    net.output("y", ["batch", 7, 6, 4])
    return net


def rows(batch: int | str = "batch") -> Net:
    """Two dense layers."""
    net = Net(seed=3)
    x = net.linear(net.input("x", [batch, 24]), 24, 33, "hidden", relu=True)
    net.linear(x, 33, 6, "y")
    net.output("y", [batch, 6])
    return net


def grouped() -> Net:
    """What has no kernel: groups, dilations, a concatenation, a mean of less than a map."""
    net = Net(seed=4)
    x = net.input("x", ["batch", 4, 8, 8])
    x = net.node("Relu", [net.conv(x, 8, 4, "stem")], "stem_relu")
    a = net.conv(x, 8, 1, "depthwise", group=8)
    weight = net.weight("dilated.weight", 8, 8, 3, 3)
    b = net.node("Conv", [x, weight], "dilated", pads=[2] * 4, dilations=[2, 2])
    x = net.node("Concat", [a, b], "both", axis=1)
    x = net.node("AveragePool", [x], "means", kernel_shape=[2, 2], strides=[2, 2])
    net.conv(x, 4, 16, "y")
    net.output("y", ["batch", 4, 4, 4])
    return net


def highest() -> Net:
    """The greatest value of whole maps, before a classifier."""
    net = Net(seed=5)
    x = net.input("x", ["batch", 3, 7, 5])
    x = net.node("GlobalMaxPool", [net.conv(x, 18, 3, "stem")], "top")
    net.linear(net.node("Flatten", [x], "row"), 18, 5, "y")
    net.output("y", ["batch", 5])
    return net


NETS = [shortcut, projected, channels_last, rows, highest]
