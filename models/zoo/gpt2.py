# SPDX-License-Identifier: Apache-2.0
"""GPT-2-like decoder: `input_ids` [batch, L] → `logits` [batch, L, vocabulary].

Linear layers are Gemm with weights [K, N] on a matrix of all tokens, GELU is the tanh formula,
and the head is the transposed embedding.
"""

from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net, causal_mask

LENGTH = 16


@dataclass(frozen=True)
class Size:
    """Tokens, positions, blocks, heads, width."""

    vocabulary: int
    positions: int
    depth: int
    heads: int
    width: int


FULL = Size(50257, 1024, 12, 12, 768)
TINY = Size(256, 32, 2, 2, 64)


def build(*, tiny: bool = False) -> ir.Model:
    """The model: pre-norm, a causal mask."""
    size, net = TINY if tiny else FULL, Net()
    ids = net.input("input_ids", "batch", LENGTH, dtype="INT64")
    width = size.width
    table = net.normal(size.vocabulary, width, std=width**-0.5)
    places = net.embedding(
        net.constant([list(range(LENGTH))]), net.normal(size.positions, width, std=0.2)
    )
    x = net.op("Add", net.embedding(ids, table), places)
    mask = net.constant(causal_mask(LENGTH))
    for _ in range(size.depth):
        y = self_attention(net, net.layer_norm(x, width), size, mask)
        x = net.op("Add", y, x)
        y = conv1d(net, net.layer_norm(x, width), width, 4 * width)
        x = net.op("Add", x, conv1d(net, gelu_tanh(net, y), 4 * width, width, gain=2.0))
    x = net.layer_norm(x, width)
    return net.model(logits=net.op("MatMul", x, net.transpose(table, 1, 0)))


def self_attention(net: Net, x: ir.Value, size: Size, mask: ir.Value) -> ir.Value:
    """One product for q, k and v, split along the width."""
    width, head = size.width, size.width // size.heads
    parts = net.split(conv1d(net, x, width, 3 * width), 3, axis=2)
    q, k, v = (net.heads(part, size.heads, head) for part in parts)
    return conv1d(net, net.merge_heads(net.attention(q, k, v, head, mask), width), width, width)


def conv1d(net: Net, x: ir.Value, ins: int, outs: int, gain: float = 1.0) -> ir.Value:
    """The linear layer that GPT-2 calls Conv1D: Gemm between two Reshapes."""
    y = net.gemm(net.reshape(x, -1, ins), ins, outs, gain=gain, transposed=False)
    return net.reshape(y, -1, LENGTH, outs)


def gelu_tanh(net: Net, x: ir.Value) -> ir.Value:
    """x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))."""
    cubic = net.op("Mul", net.op("Pow", x, net.constant(3.0)), net.constant(0.044715))
    inner = net.op("Mul", net.op("Add", x, cubic), net.constant(0.7978845608))
    outer = net.op("Add", net.op("Tanh", inner), net.constant(1.0))
    return net.op("Mul", net.op("Mul", x, net.constant(0.5)), outer)
