# SPDX-License-Identifier: Apache-2.0
"""Llama-like decoder with a KV cache: grouped queries, rotary embedding, RMSNorm, SwiGLU.

Inputs `input_ids`, `position_ids` [batch, L] and `past_key_i`, `past_value_i` [batch, kv heads, P,
head]; outputs `logits` and `key_i`, `value_i` [batch, kv heads, P + L, head]. All lengths are free.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from models.zoo.layers import Net

THETA = 10000.0  # base of the rotary frequencies
END = 2**63 - 1


@dataclass(frozen=True)
class Size:
    """Tokens, blocks, heads of queries, heads of keys and values, width, width of the MLP."""

    vocabulary: int
    depth: int
    heads: int
    kv_heads: int
    width: int
    wide: int

    @property
    def head(self) -> int:
        """Size of a head."""
        return self.width // self.heads


FULL = Size(4096, 6, 8, 4, 512, 1376)
TINY = Size(256, 2, 4, 2, 64, 192)


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    ids = net.input("input_ids", "batch", "length", dtype="INT64")
    places = net.input("position_ids", "batch", "length", dtype="INT64")
    dims = ("batch", size.kv_heads, "past", size.head)
    past = [
        tuple(net.input(f"past_{what}_{i}", *dims) for what in ("key", "value"))
        for i in range(size.depth)
    ]
    x = net.embedding(ids, net.normal(size.vocabulary, size.width, std=1.0))
    cos, sin = rotation(net, places, size.head)
    mask = causal(net, places, past[0][0])
    present: dict[str, ir.Value] = {}
    for i, (key, value) in enumerate(past):
        y = net.rms_norm(x, size.width)
        y, present[f"key_{i}"], present[f"value_{i}"] = self_attention(
            net, y, size, (cos, sin), (key, value), mask
        )
        x = net.op("Add", x, y)
        x = net.op("Add", x, swiglu(net, net.rms_norm(x, size.width), size))
    logits = net.linear(net.rms_norm(x, size.width), size.width, size.vocabulary, bias=False)
    return net.model(logits=logits, **present)


def rotation(net: Net, places: ir.Value, head: int) -> tuple[ir.Value, ir.Value]:
    """Cosine and sine of the angles of every position; [batch, 1, L, head]."""
    floats = net.op("Cast", net.op("Unsqueeze", places, net.constant([2])), to=ir.DataType.FLOAT)
    frequencies = net.constant(THETA ** -(np.arange(0, head, 2) / head))
    angles = net.op("Mul", floats, frequencies)
    angles = net.op("Concat", angles, angles, axis=-1)
    axis = net.constant([1])
    return (
        net.op("Unsqueeze", net.op("Cos", angles), axis),
        net.op("Unsqueeze", net.op("Sin", angles), axis),
    )


def causal(net: Net, places: ir.Value, past: ir.Value) -> ir.Value:
    """0 where a key's position is at most the query's, else −inf; [batch, 1, L, P + L]."""
    total = net.op(
        "Add", net.op("Shape", past, start=2, end=3), net.op("Shape", places, start=1, end=2)
    )
    scalar = net.op("Squeeze", total, net.constant([0]))
    keys = net.op("Range", net.constant(0), scalar, net.constant(1))
    queries = net.op("Unsqueeze", places, net.constant([1, 3]))
    seen = net.op("LessOrEqual", keys, queries)
    return net.op("Where", seen, net.constant(0.0), net.constant(-np.inf))


def rotate(net: Net, x: ir.Value, angles: tuple[ir.Value, ir.Value], head: int) -> ir.Value:
    """x · cos + (−second half, first half) · sin."""
    first, second = net.slice(x, 0, head // 2, 3), net.slice(x, head // 2, END, 3)
    turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
    return net.op("Add", net.op("Mul", x, angles[0]), net.op("Mul", turned, angles[1]))


def self_attention(
    net: Net,
    x: ir.Value,
    size: Size,
    angles: tuple[ir.Value, ir.Value],
    past: tuple[ir.Value, ir.Value],
    mask: ir.Value,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The block's output, and the keys and values of all positions."""
    width, head, kv_width = size.width, size.head, size.kv_heads * size.head
    q = net.heads(net.linear(x, width, width, bias=False), size.heads, head)
    k = net.heads(net.linear(x, width, kv_width, bias=False), size.kv_heads, head)
    v = net.heads(net.linear(x, width, kv_width, bias=False), size.kv_heads, head)
    q, k = (rotate(net, each, angles, head) for each in (q, k))
    k, v = (net.op("Concat", old, new, axis=-2) for old, new in zip(past, (k, v), strict=True))
    wide_k, wide_v = (repeat(net, each, size) for each in (k, v))
    y = net.merge_heads(net.attention(q, wide_k, wide_v, head, mask), width)
    return net.linear(y, width, width, bias=False), k, v


def repeat(net: Net, x: ir.Value, size: Size) -> ir.Value:
    """Every head of keys or values once for each head of queries that reads it."""
    copies = size.heads // size.kv_heads
    x = net.op("Unsqueeze", x, net.constant([2]))
    x = net.op("Expand", x, net.constant([1, 1, copies, 1, 1]))
    # -1 in place of the length: batch is copied, and heads are merged
    return net.reshape(x, 0, size.heads, -1, size.head)


def swiglu(net: Net, x: ir.Value, size: Size) -> ir.Value:
    """down(silu(gate(x)) · up(x))."""
    gate = net.silu(net.linear(x, size.width, size.wide, bias=False))
    up = net.linear(x, size.width, size.wide, bias=False)
    return net.linear(net.op("Mul", gate, up), size.wide, size.width, gain=2.0, bias=False)
