# SPDX-License-Identifier: Apache-2.0
"""LSTM tagger: embedding, bidirectional LSTM, linear; `tokens` [batch, L] → `tags` [batch, L, T].

The initial states, which torch writes as zeros of a fixed batch, are left out, so batch is free.
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net


@dataclass(frozen=True)
class Size:
    """Words, width of the embedding, hidden size of a direction, tags."""

    vocabulary: int
    width: int
    hidden: int
    tags: int


FULL = Size(5000, 128, 256, 20)
TINY = Size(512, 64, 32, 20)
LENGTH = 16


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    tokens = net.input("tokens", "batch", LENGTH, dtype="INT64")
    x = net.embedding(tokens, net.normal(size.vocabulary, size.width, std=1.0))
    hidden, std = size.hidden, 1 / math.sqrt(size.hidden)
    states = net.op(
        "LSTM",
        net.transpose(x, 1, 0, 2),
        net.normal(2, 4 * hidden, size.width, std=std),
        net.normal(2, 4 * hidden, hidden, std=std),
        net.normal(2, 8 * hidden, std=std),
        hidden_size=hidden,
        direction="bidirectional",
        input_forget=0,
        layout=0,
    )  # [length, directions, batch, hidden]
    both = net.reshape(net.transpose(states, 0, 2, 1, 3), 0, 0, 2 * hidden)
    return net.model(tags=net.linear(net.transpose(both, 1, 0, 2), 2 * hidden, size.tags))
