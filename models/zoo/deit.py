# SPDX-License-Identifier: Apache-2.0
"""DeiT-Tiny: a vision transformer as torchvision's module exports it; `image` → `logits`.

Its MultiheadAttention runs with the length first, so the projections work on [L, batch, width].
"""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net

EPSILON = 1e-6


@dataclass(frozen=True)
class Size:
    """Side of the image and of a patch, blocks, heads, width, classes."""

    image: int
    patch: int
    depth: int
    heads: int
    width: int
    classes: int

    @property
    def length(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


FULL = Size(224, 16, 12, 3, 192, 1000)
TINY = Size(16, 4, 2, 2, 64, 16)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("image", "batch", 3, size.image, size.image)
    x = net.conv(x, 3, size.width, size.patch, stride=size.patch, pad=0, gain=1.0)
    x = net.transpose(net.reshape(x, 0, size.width, size.length - 1), 0, 2, 1)
    x = net.op("Concat", class_token(net, x, size.width), x, axis=1)
    x = net.op("Add", x, net.normal(1, size.length, size.width, std=0.2))
    for _ in range(size.depth):
        y = net.layer_norm(x, size.width, EPSILON)
        x = net.op("Add", self_attention(net, y, size), x)
        y = net.layer_norm(x, size.width, EPSILON)
        y = net.gelu(net.linear(y, size.width, 4 * size.width))
        x = net.op("Add", x, net.linear(y, 4 * size.width, size.width, gain=2.0))
    x = net.layer_norm(x, size.width, EPSILON)
    first = net.op("Gather", x, net.constant(0), axis=1)
    return net.model(logits=net.gemm(first, size.width, size.classes))


def class_token(net: Net, x: ir.Value, width: int) -> ir.Value:
    """The token once a sample: Expand to the batch of x."""
    batch = net.op("Shape", x, start=0, end=1)
    shape = net.op("Concat", batch, net.constant([1, width]), axis=0)
    return net.op("Expand", net.normal(1, 1, width, std=0.2), shape)


def self_attention(net: Net, x: ir.Value, size: Size) -> ir.Value:
    """torch.nn.MultiheadAttention with one projection for q, k and v."""
    width, length = size.width, size.length
    x = net.linear(net.transpose(x, 1, 0, 2), width, 3 * width)
    x = net.op("Unsqueeze", net.reshape(x, 0, 0, 3, width), net.constant([0]))
    x = net.op("Squeeze", net.transpose(x, 3, 1, 2, 0, 4), net.constant([-2]))
    q, k, v = (one_part(net, net.pick(x, i), size) for i in range(3))
    y = net.transpose(net.attention(q, k, v, width // size.heads), 2, 0, 1, 3)
    y = net.gemm(net.reshape(y, -1, width), width, width)
    return net.transpose(net.reshape(y, length, -1, width), 1, 0, 2)


def one_part(net: Net, x: ir.Value, size: Size) -> ir.Value:
    """[length, batch, width] → [batch, heads, length, width / heads]."""
    head = size.width // size.heads
    x = net.transpose(net.reshape(x, size.length, -1, head), 1, 0, 2)
    return net.reshape(x, -1, size.heads, size.length, head)
