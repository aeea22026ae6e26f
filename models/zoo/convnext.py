# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt-Tiny: depthwise 7×7, LayerNorm, GELU, layer scale; `image` → `logits`."""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net

EPSILON = 1e-6


@dataclass(frozen=True)
class Size:
    """Side of the image, channels and blocks of each stage, classes."""

    image: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    classes: int


FULL = Size(224, (96, 192, 384, 768), (3, 3, 9, 3), 1000)
TINY = Size(32, (32, 64), (2, 1), 16)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    x = norm(net, net.conv(x, 3, size.channels[0], 4, stride=4, pad=0, gain=1.0), size.channels[0])
    for stage, (width, depth) in enumerate(zip(size.channels, size.depths, strict=True)):
        if stage:
            before = size.channels[stage - 1]
            x = net.conv(norm(net, x, before), before, width, 2, stride=2, pad=0, gain=1.0)
        for _ in range(depth):
            x = block(net, x, width)
    last = size.channels[-1]
    x = norm(net, net.mean(x, -1, -2), last)
    return net.model(logits=net.gemm(net.reshape(x, -1, last), last, size.classes))


def norm(net: Net, x: ir.Value, width: int) -> ir.Value:
    """LayerNorm over the channels of an NCHW map."""
    y = net.layer_norm(net.transpose(x, 0, 2, 3, 1), width, EPSILON)
    return net.transpose(y, 0, 3, 1, 2)


def block(net: Net, x: ir.Value, width: int) -> ir.Value:
    """Depthwise 7×7, two linear layers over the channels, the layer's scale, the input added."""
    y = net.conv(x, width, width, 7, group=width, gain=1.0)
    y = net.layer_norm(net.transpose(y, 0, 2, 3, 1), width, EPSILON)
    y = net.gelu(net.linear(y, width, 4 * width))
    y = net.transpose(net.linear(y, 4 * width, width, gain=2.0), 0, 3, 1, 2)
    scale = net.constant(net.rng.uniform(0.1, 0.5, (width, 1, 1)))
    return net.op("Add", net.op("Mul", scale, y), x)
