# SPDX-License-Identifier: Apache-2.0
"""Random integer-only graphs: single convolutions, and a small residual network."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from qcompile.integer_graph import (
    Add,
    CodeMap,
    Conv,
    Excerpt,
    GlobalAveragePool,
    IntegerGraph,
    MaxPool,
    Residual,
)
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import DyadicPair, as_operand
from qcompile.numerics.requantize import Dyadic


def scale(rng: Generator, count: int, low: float, high: float) -> Dyadic:
    """Dyadic numbers, evenly spread over the logarithms."""
    return Dyadic(*as_operand(np.exp(rng.uniform(np.log(low), np.log(high), count))))


def pair(rng: Generator, low: float, high: float) -> DyadicPair:
    """Two ratios of codes to those of a sum."""
    return DyadicPair.of(*rng.uniform(low, high, 2))


def window(kernel: int, stride: int = 1, pad: int | None = None) -> Window:
    """A square window; by default its pads keep the size."""
    pads = (kernel // 2 if pad is None else pad,) * 4
    return Window((kernel, kernel), (stride, stride), pads)


def conv(
    rng: Generator,
    x: CodeMap,
    name: str,
    N: int,
    where: Window,
    *,
    bits: int = 8,
    weight_bits: int | None = None,
    zero_point: int = 0,
    is_signed: bool = False,
    residual: CodeMap | None = None,
    clip: tuple[int, int] | None = None,
) -> Conv:
    """Random weights of all codes, and scales that use most of the output's range.

    bits 32 gives rescaled sums. A residual is added to codes of 8 bits around 120.
    """
    weight_bits = x.bits if weight_bits is None else weight_bits
    half, C = 1 << (weight_bits - 1), x.shape[2]
    kh, kw = where.kernel
    y = CodeMap(name, (*where.output_size(*x.shape[:2]), N), bits, is_signed, zero_point)
    weight = rng.integers(-half, half, (N, kh, kw, C)).astype(np.int8)
    typical = np.sqrt(kh * kw * C) * half * (1 << (x.bits - 1))
    bias = rng.integers(-typical // 4, typical // 4 + 1, N).astype(np.int32)
    spread = 1 if bits == 32 else typical / (1 << (7 if residual is not None else bits - 1))
    scales = scale(rng, N, 0.5 / spread, 1 / spread)
    added = None
    if residual is not None:
        own = CodeMap(f"{name}_own", y.shape, 8, False, 120)
        ratios = np.array([1 / (1 << (8 - bits)), 1 / (1 << max(residual.bits - bits, 0))])
        added = Residual(own, residual, DyadicPair.of(*(ratios * rng.uniform(0.4, 0.9, 2))))
    return Conv(x, y, weight, bias, scales, where, weight_bits, added, clip)


def residual_net(bits: int, batch: int, seed: int = 0) -> IntegerGraph:
    """Convolutions of 3 × 3 and 1 × 1, strides, both forms of residual, pools, a classifier."""
    rng = np.random.default_rng(seed)
    zero = 0 if bits == 4 else 3
    x = CodeMap("x", (13, 13, 3), 8, False, 128)
    first = conv(rng, x, "first", 16, window(3), bits=bits, zero_point=zero)
    pool_window = window(3, 2)
    pooled = CodeMap(
        "pooled", (*pool_window.output_size(13, 13), 16), bits, first.y.is_signed, zero
    )
    pool = MaxPool(first.y, pooled, pool_window)
    inner = conv(rng, pooled, "inner", 16, window(3), bits=bits, zero_point=zero)
    block = conv(
        rng,
        inner.y,
        "block",
        16,
        window(3),
        bits=bits,
        zero_point=zero,
        residual=pooled,
        clip=(zero, 255),
    )
    size = tuple((n + 1) // 2 for n in block.y.shape[:2])
    cut = CodeMap("side", (*size, 24), bits, False, zero)
    side = Excerpt(block.y, cut, step=(2, 2, 1), before=(0, 0, 5), count=(*size, 16))
    main = conv(rng, block.y, "main", 24, window(3, 2), bits=bits, zero_point=zero)
    total = CodeMap("total", main.y.shape, bits, False, zero)
    add = Add(side.y, main.y, total, pair(rng, 0.3, 0.9))
    mean = CodeMap("mean", (1, 1, 24), 8, True, -5)
    area = total.shape[0] * total.shape[1]
    average = GlobalAveragePool(total, mean, scale(rng, 1, 1 / area, 1.5 / area))
    logits = conv(rng, mean, "logits", 10, window(1), bits=32)
    nodes = (first, pool, inner, block, side, main, add, average, logits)
    return IntegerGraph(x, nodes, batch)


def codes_of(rng: Generator, x: CodeMap, batch: int) -> NDArray:
    """Random codes with both ends of the range among them."""
    low, high = x.range
    codes = rng.integers(low, high + 1, (batch, *x.shape))
    codes.flat[0], codes.flat[-1] = low, high
    return codes
