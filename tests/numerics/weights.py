# SPDX-License-Identifier: Apache-2.0
"""Random coded weights."""

import numpy as np

from qcompile.formats import get
from qcompile.numerics.weight import CodedWeight


def random_weight(
    rng: np.random.Generator,
    n: int,
    k: int,
    format: str = "int8",
    block_size: int = 0,
    *,
    has_scale: bool = True,
    has_zero_point: bool = False,
) -> CodedWeight:
    """Codes over the symmetric range, scales of 0.01 … 1."""
    chosen = get(format)
    low, high = chosen.quantized_range(symmetric=chosen.is_signed)
    codes = rng.integers(low, high + 1, (n, k)).astype(np.int16)
    blocks = -(-k // (block_size or k))
    scale = rng.uniform(0.01, 1, (n, blocks)).astype(np.float32) if has_scale else None
    point = rng.integers(low, high + 1, (n, blocks)).astype(np.int16) if has_zero_point else None
    return CodedWeight(codes, scale, point, chosen, block_size, "f32" if has_scale else "none")
