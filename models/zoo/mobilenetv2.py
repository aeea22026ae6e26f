# SPDX-License-Identifier: Apache-2.0
"""MobileNetV2: inverted residuals, `image` [batch, 3, S, S] → `logits` [batch, classes]."""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net


@dataclass(frozen=True)
class Size:
    """Side, stem, stages (expansion, channels, blocks, stride), channels of the last conv."""

    image: int
    stem: int
    stages: tuple[tuple[int, int, int, int], ...]
    last: int
    classes: int


FULL = Size(
    224,
    32,
    (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ),
    1280,
    1000,
)
TINY = Size(32, 16, ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 2)), 64, 16)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    x = relu6(net, net.conv(x, 3, size.stem, 3, stride=2))
    channels = size.stem
    for expansion, outs, count, stride in size.stages:
        for block in range(count):
            x = inverted_residual(net, x, channels, outs, expansion, 1 if block else stride)
            channels = outs
    x = relu6(net, net.conv(x, channels, size.last, 1))
    return net.model(logits=net.head(x, size.last, size.classes))


def relu6(net: Net, x: ir.Value) -> ir.Value:
    """Clip to 0 … 6."""
    return net.op("Clip", x, net.constant(0.0), net.constant(6.0))


def inverted_residual(
    net: Net, x: ir.Value, ins: int, outs: int, expansion: int, stride: int
) -> ir.Value:
    """1×1 up, depthwise 3×3, 1×1 down without activation, and the input added where it fits."""
    wide, y = ins * expansion, x
    if expansion > 1:
        y = relu6(net, net.conv(y, ins, wide, 1))
    y = relu6(net, net.conv(y, wide, wide, 3, stride=stride, group=wide))
    y = net.conv(y, wide, outs, 1, gain=1.0)
    return net.op("Add", x, y) if stride == 1 and ins == outs else y
