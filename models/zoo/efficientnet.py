# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-B0: inverted residuals with SiLU and a gate; `image` [batch, 3, S, S] → `logits`."""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import GATED_GAIN, Net


@dataclass(frozen=True)
class Size:
    """Side, stem, stages (expansion, kernel, stride, channels, blocks), last channels, classes."""

    image: int
    stem: int
    stages: tuple[tuple[int, int, int, int, int], ...]
    last: int
    classes: int


FULL = Size(
    224,
    32,
    (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ),
    1280,
    1000,
)
TINY = Size(32, 16, ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 32, 1)), 96, 16)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    x = net.silu(net.conv(x, 3, size.stem, 3, stride=2))
    channels = size.stem
    for expansion, kernel, stride, outs, count in size.stages:
        for block in range(count):
            x = mbconv(net, x, channels, outs, expansion, kernel, 1 if block else stride)
            channels = outs
    x = net.silu(net.conv(x, channels, size.last, 1))
    return net.model(logits=net.head(x, size.last, size.classes))


def mbconv(
    net: Net, x: ir.Value, ins: int, outs: int, expansion: int, kernel: int, stride: int
) -> ir.Value:
    """1×1 up, depthwise, the gate, 1×1 down, and the input added where it fits."""
    wide, squeezed, y = ins * expansion, max(1, ins // 4), x
    if expansion > 1:
        y = net.silu(net.conv(y, ins, wide, 1))
    y = net.silu(net.conv(y, wide, wide, kernel, stride=stride, group=wide))
    gate = net.silu(net.conv(net.mean(y, -1, -2), wide, squeezed, 1))
    gate = net.op("Sigmoid", net.conv(gate, squeezed, wide, 1, gain=1.0))
    y = net.conv(net.op("Mul", gate, y), wide, outs, 1, gain=GATED_GAIN)
    return net.op("Add", y, x) if stride == 1 and ins == outs else y
