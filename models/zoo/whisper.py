# SPDX-License-Identifier: Apache-2.0
"""Whisper-like encoder: two 1-D convolutions and attention; `mel` [batch, 80, F] → `hidden`."""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net


@dataclass(frozen=True)
class Size:
    """Mel bands, frames, blocks, heads, width."""

    bands: int
    frames: int
    depth: int
    heads: int
    width: int


FULL = Size(80, 3000, 4, 6, 384)
TINY = Size(16, 32, 3, 2, 64)


def build(*, tiny: bool = False) -> ir.Model:
    """The model: pre-norm; keys have no bias, and the queries carry the factor 1/√head."""
    size, net = TINY if tiny else FULL, Net()
    x = net.input("mel", "batch", size.bands, size.frames)
    width, head = size.width, size.width // size.heads
    x = net.gelu(net.conv(x, size.bands, width, axes=1))
    x = net.gelu(net.conv(x, width, width, stride=2, axes=1))
    places = net.normal(size.frames // 2, width, std=0.2)
    places = net.embedding(net.constant(list(range(size.frames // 2))), places)
    x = net.op("Add", net.transpose(x, 0, 2, 1), places)
    for _ in range(size.depth):
        y = net.layer_norm(x, width)
        q = net.op("Mul", net.linear(y, width, width), net.constant(head**-0.5))
        k, v = (net.linear(y, width, width, bias=has_bias) for has_bias in (False, True))
        q, k, v = (net.heads(each, size.heads, head) for each in (q, k, v))
        y = net.merge_heads(net.attention(q, k, v, head, is_scaled=True), width)
        x = net.op("Add", x, net.linear(y, width, width))
        y = net.gelu(net.linear(net.layer_norm(x, width), width, 4 * width))
        x = net.op("Add", x, net.linear(y, 4 * width, width, gain=2.0))
    return net.model(hidden=net.layer_norm(x, width))
