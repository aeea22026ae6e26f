# SPDX-License-Identifier: Apache-2.0
"""Keyword spotter: two GRU layers, linear; `frames` [batch, L, features] → `words` [batch, W].

torch's GRU resets after the product of the state (linear_before_reset = 1). The initial states,
which torch writes as zeros of a fixed batch, are left out, so batch is free.
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from models.zoo.layers import Net


@dataclass(frozen=True)
class Size:
    """Features of a frame, hidden size, words."""

    features: int
    hidden: int
    words: int


FULL = Size(80, 512, 35)
TINY = Size(64, 48, 12)
LENGTH = 24


def build(*, tiny: bool = False) -> ir.Model:
    """The model."""
    size, net = TINY if tiny else FULL, Net()
    x = net.transpose(net.input("frames", "batch", LENGTH, size.features), 1, 0, 2)
    hidden, std = size.hidden, 1 / math.sqrt(size.hidden)
    for width in (size.features, hidden):
        states = net.op(
            "GRU",
            x,
            net.normal(1, 3 * hidden, width, std=std),
            net.normal(1, 3 * hidden, hidden, std=std),
            net.normal(1, 6 * hidden, std=std),
            hidden_size=hidden,
            linear_before_reset=1,
        )  # [length, 1, batch, hidden]
        x = net.op("Squeeze", states, net.constant([1]))
    last = net.op("Gather", net.transpose(x, 1, 0, 2), net.constant(-1), axis=1)
    return net.model(words=net.gemm(last, hidden, size.words))
