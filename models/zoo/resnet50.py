# SPDX-License-Identifier: Apache-2.0
"""ResNet-50: bottleneck blocks, `image` [batch, 3, S, S] → `logits` [batch, classes]."""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net

BRANCH_GAIN = 0.5  # 16 branches add up to at most 1.5^16 of the variance, within float range


@dataclass(frozen=True)
class Size:
    """Side of the image, channels of the stem, blocks of each stage, classes."""

    image: int
    stem: int
    depths: tuple[int, ...]
    classes: int


FULL = Size(224, 64, (3, 4, 6, 3), 1000)
TINY = Size(32, 16, (2, 1), 16)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    x = net.relu(net.conv(x, 3, size.stem, 7, stride=2))
    x = net.op(
        "MaxPool",
        x,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        dilations=[1, 1],
        auto_pad="NOTSET",
        ceil_mode=0,
        storage_order=0,
    )
    channels = size.stem
    for stage, depth in enumerate(size.depths):
        width = size.stem * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            x = bottleneck(net, x, channels, width, stride)
            channels = 4 * width
    return net.model(logits=net.head(x, channels, size.classes))


def bottleneck(net: Net, x: ir.Value, ins: int, width: int, stride: int) -> ir.Value:
    """1×1, 3×3, 1×1 to 4 · width, and the input or its projection added."""
    y = net.relu(net.conv(x, ins, width, 1))
    y = net.relu(net.conv(y, width, width, 3, stride=stride))
    y = net.conv(y, width, 4 * width, 1, gain=BRANCH_GAIN)
    if stride > 1 or ins != 4 * width:
        x = net.conv(x, ins, 4 * width, 1, stride=stride, gain=1.0)
    return net.relu(net.op("Add", y, x))
