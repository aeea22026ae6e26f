# SPDX-License-Identifier: Apache-2.0
"""Swin-Tiny: attention in shifted windows with relative position bias; `image` → `logits`."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from models.zoo.layers import Net

WINDOW, SHIFT = 7, 3
MASKED = -100.0  # torchvision's: it is no infinity
END = 2**63 - 1


@dataclass(frozen=True)
class Size:
    """Side of the image, width and heads of the first stage, blocks of each stage, classes."""

    image: int
    width: int
    heads: int
    depths: tuple[int, ...]
    classes: int


FULL = Size(224, 96, 3, (2, 2, 6, 2), 1000)
TINY = Size(56, 32, 2, (2, 2), 16)


def build(*, tiny: bool = False) -> ir.Model:
    """The model. Both sizes divide into whole windows at every stage."""
    size, net = TINY if tiny else FULL, Net()
    width, side, heads = size.width, size.image // 4, size.heads
    x = net.input("image", "batch", 3, size.image, size.image)
    x = net.conv(x, 3, width, 4, stride=4, pad=0, gain=1.0)
    x = net.layer_norm(net.transpose(x, 0, 2, 3, 1), width)
    for stage, depth in enumerate(size.depths):
        if stage:
            x = merge_patches(net, x, width)
            width, side, heads = 2 * width, side // 2, 2 * heads
        for block in range(depth):
            shift = SHIFT if block % 2 and side > WINDOW else 0
            y = windowed(net, net.layer_norm(x, width), width, side, heads, shift)
            x = net.op("Add", x, y)
            y = net.gelu(net.linear(net.layer_norm(x, width), width, 4 * width))
            x = net.op("Add", x, net.linear(y, 4 * width, width, gain=2.0))
    x = net.transpose(net.layer_norm(x, width), 0, 3, 1, 2)
    return net.model(logits=net.head(x, width, size.classes))


def pad(net: Net, x: ir.Value) -> ir.Value:
    """The Pad by nothing that torchvision leaves in front of windows and merges."""
    return net.op("Pad", x, net.constant([0] * 8), mode="constant")


def roll(net: Net, x: ir.Value, by: int, side: int) -> ir.Value:
    """torch.roll of both axes of the image: the first `by` rows and columns go to the end."""
    for axis in (1, 2):
        first, rest = net.slice(x, 0, by, axis), net.slice(x, by, side, axis)
        x = net.op("Concat", rest, first, axis=axis)
    return x


def windowed(net: Net, x: ir.Value, width: int, side: int, heads: int, shift: int) -> ir.Value:
    """Self-attention within the windows of an NHWC map."""
    count, area, head = side // WINDOW, WINDOW * WINDOW, width // heads
    bias = net.reshape(net.normal(area * area, heads, std=0.2), area, area, -1)
    bias = net.op("Unsqueeze", net.transpose(bias, 2, 0, 1), net.constant([0]))
    x = pad(net, x)
    if shift:
        x = roll(net, x, shift, side)
    x = net.transpose(net.reshape(x, -1, count, WINDOW, count, WINDOW, width), 0, 1, 3, 2, 4, 5)
    x = net.linear(net.reshape(x, -1, area, width), width, 3 * width)
    x = net.transpose(net.reshape(x, -1, area, 3, heads, head), 2, 0, 3, 1, 4)
    q, k, v = (net.pick(x, i) for i in range(3))
    q = net.op("Mul", q, net.constant(head**-0.5))
    scores = net.op("Add", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), bias)
    if shift:
        scores = net.reshape(scores, -1, count * count, heads, area, area)
        scores = net.op("Add", scores, net.constant(window_mask(side, shift)))
        scores = net.reshape(scores, -1, heads, area, area)
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.reshape(net.transpose(y, 0, 2, 1, 3), -1, area, width)
    y = net.reshape(net.linear(y, width, width), -1, count, count, WINDOW, WINDOW, width)
    y = net.reshape(net.transpose(y, 0, 1, 3, 2, 4, 5), -1, side, side, width)
    return roll(net, y, side - shift, side) if shift else y


def window_mask(side: int, shift: int) -> NDArray:
    """Which pixels of a window came from other ends of the image; [1, windows, 1, area, area]."""
    edges = np.zeros(side, np.int64)
    edges[-WINDOW:-shift], edges[-shift:] = 1, 2
    region = 3 * edges[:, None] + edges[None, :]
    count = side // WINDOW
    region = region.reshape(count, WINDOW, count, WINDOW).transpose(0, 2, 1, 3)
    region = region.reshape(count * count, -1)
    differ = region[:, :, None] != region[:, None, :]
    return np.where(differ, np.float32(MASKED), np.float32(0))[None, :, None]


def merge_patches(net: Net, x: ir.Value, width: int) -> ir.Value:
    """Every 2×2 pixels to one of twice the width."""
    x = pad(net, x)
    rows = [net.slice(x, i, END, 1, step=2) for i in (0, 1)]
    parts = [net.slice(row, j, END, 2, step=2) for j in (0, 1) for row in rows]
    x = net.layer_norm(net.op("Concat", *parts, axis=-1), 4 * width)
    return net.linear(x, 4 * width, 2 * width, bias=False)
