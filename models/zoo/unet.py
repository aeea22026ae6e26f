# SPDX-License-Identifier: Apache-2.0
"""U-Net: skips by Concat, ConvTranspose up; `image` [batch, 3, S, S] → `mask` [batch, 2, S, S]."""

import math
from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net


@dataclass(frozen=True)
class Size:
    """Side of the image and the channels of each level."""

    image: int
    channels: tuple[int, ...]


FULL = Size(256, (64, 128, 256, 512))
TINY = Size(32, (16, 32, 64))
CLASSES = 2


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    skips: list[ir.Value] = []
    before = 3
    for level, width in enumerate(size.channels):
        if level:
            skips.append(x)
            x = halve(net, x)
        x = double_conv(net, x, before, width)
        before = width
    for width in reversed(size.channels[:-1]):
        x = net.op("Concat", skips.pop(), double(net, x, before, width), axis=1)
        x = double_conv(net, x, 2 * width, width)
        before = width
    return net.model(mask=net.conv(x, before, CLASSES, 1, gain=1.0))


def double_conv(net: Net, x: ir.Value, ins: int, outs: int) -> ir.Value:
    """Two 3×3 convolutions with ReLU."""
    return net.relu(net.conv(net.relu(net.conv(x, ins, outs)), outs, outs))


def halve(net: Net, x: ir.Value) -> ir.Value:
    """MaxPool 2×2."""
    return net.op(
        "MaxPool",
        x,
        kernel_shape=[2, 2],
        strides=[2, 2],
        pads=[0] * 4,
        dilations=[1, 1],
        auto_pad="NOTSET",
        ceil_mode=0,
        storage_order=0,
    )


def double(net: Net, x: ir.Value, ins: int, outs: int) -> ir.Value:
    """ConvTranspose 2×2 of stride 2: every output pixel has `ins` products."""
    return net.op(
        "ConvTranspose",
        x,
        net.normal(ins, outs, 2, 2, std=math.sqrt(1 / ins)),
        net.normal(outs, std=0.1),
        kernel_shape=[2, 2],
        strides=[2, 2],
        pads=[0] * 4,
        output_padding=[0, 0],
        dilations=[1, 1],
        group=1,
        auto_pad="NOTSET",
    )
