# SPDX-License-Identifier: Apache-2.0
"""BERT-like encoder: `input_ids`, `attention_mask` [batch, L] → `hidden` [batch, L, width]."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from models.zoo.layers import Net

EPSILON = 1e-12
LENGTH = 16


@dataclass(frozen=True)
class Size:
    """Tokens, positions, blocks, heads, width."""

    vocabulary: int
    positions: int
    depth: int
    heads: int
    width: int


FULL = Size(30522, 512, 12, 12, 768)
TINY = Size(256, 32, 2, 2, 64)


def build(*, tiny: bool = False) -> ir.Model:
    """The model: post-norm, a padding mask, token types all 0."""
    size, net = TINY if tiny else FULL, Net()
    ids = net.input("input_ids", "batch", LENGTH, dtype="INT64")
    keep = net.input("attention_mask", "batch", LENGTH, dtype="INT64")
    width, head = size.width, size.width // size.heads
    x = embed(net, ids, size)
    mask = net.op("Cast", net.op("Unsqueeze", keep, net.constant([1, 2])), to=ir.DataType.BOOL)
    mask = net.op("Where", mask, net.constant(0.0), net.constant(-np.inf))
    for _ in range(size.depth):
        q, k, v = (net.heads(net.linear(x, width, width), size.heads, head) for _ in range(3))
        y = net.merge_heads(net.attention(q, k, v, head, mask), width)
        x = net.layer_norm(net.op("Add", net.linear(y, width, width), x), width, EPSILON)
        y = net.gelu(net.linear(x, width, 4 * width))
        y = net.linear(y, 4 * width, width, gain=2.0)
        x = net.layer_norm(net.op("Add", y, x), width, EPSILON)
    return net.model(hidden=x)


def embed(net: Net, ids: ir.Value, size: Size) -> ir.Value:
    """Tokens, token types and positions added, then LayerNorm."""
    x = net.embedding(ids, net.normal(size.vocabulary, size.width, std=1.0))
    types = net.embedding(net.constant([[0] * LENGTH]), net.normal(2, size.width, std=0.2))
    places = net.normal(size.positions, size.width, std=0.2)
    places = net.embedding(net.constant([list(range(LENGTH))]), places)
    x = net.op("Add", net.op("Add", x, types), places)
    return net.layer_norm(x, size.width, EPSILON)
