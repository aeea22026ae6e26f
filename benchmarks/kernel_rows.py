# SPDX-License-Identifier: Apache-2.0
"""The products of benchmarks.kernels, and the goal of each; a new format is one more line."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.work import LIMIT, PEERS


@dataclass(frozen=True)
class Row:
    """One product of M rows with K × N weights: our time is to be `factor` × `against` at most.

    bits: of a weight, without its scale. against: "limit", "best peer" or the start of a peer's
    name.
    """

    part: str
    format: str
    bits: float
    block: int
    m: int
    factor: float
    against: str = LIMIT
    asymmetric: bool = False
    activation: str = "dynamic"
    k: int = 4096
    n: int = 4096

    @property
    def name(self) -> str:
        """As printed."""
        block = f"block {self.block}" if self.block else "per channel"
        words = [self.part, f"M={self.m}", self.format, block]
        words += ["asymmetric"] if self.asymmetric else []
        return " ".join(words + ([] if self.k == self.n == 4096 else [f"{self.k}x{self.n}"]))

    @property
    def peer_block(self) -> int:
        """What the peers take: a power of two."""
        return self.block if self.block & (self.block - 1) == 0 else 128

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, K, N."""
        return self.m, self.k, self.n

    @property
    def weight_bytes(self) -> float:
        """With scales of 16 bits, as the limit counts them."""
        return self.k * self.n * (self.bits + 16 / (self.block or self.k)) / 8

    def inputs(self) -> NDArray[np.float32]:
        """[M, K] floats."""
        return np.random.default_rng(0).standard_normal((self.m, self.k), dtype=np.float32)


# Rows with the same peers lie side by side: the copies of a peer take 512 MB and more, and are held
# up to the last row that has it.
DECODE = (
    Row("decode", "int8", 8, 0, 1, 1 / 0.93),
    Row("decode", "int6", 6, 128, 1, 1 / 0.88),
    Row("decode", "int5", 5, 128, 1, 1 / 0.88),
    Row("decode", "int4", 4, 32, 1, 1.1),
    Row("w4a16", "int4", 4, 128, 1, 0.6, "ORT 4 bit level 0", activation="f32"),
    Row("decode", "int4", 4, 128, 1, 1.06),
    Row("decode", "int3", 3, 128, 1, 1.1),
    Row("decode", "int2", 2, 128, 1, 1.08),
    Row("decode", "ternary", 1.6, 160, 1, 0.5, PEERS),
    Row("decode", "int1", 1, 128, 1, 0.42, "ORT 2 bit"),
    Row("decode", "int2", 2, 32, 1, 1.15),
)
# Within 10 % of the fraction of the limit that is asked at 4096 × 4096.
WIDE = (
    Row("decode", "int8", 8, 0, 1, 1 / 0.93 / 0.9, n=11008),
    Row("decode", "int4", 4, 128, 1, 1.06 / 0.9, n=11008),
)
PREFILL = tuple(
    row
    for m in (128, 512)
    for row in (
        Row("prefill", "int8", 8, 0, m, 1 / 0.85),
        *(Row("prefill", f"int{b}", b, 128, m, 1 / 0.78) for b in range(2, 9)),
        *(Row("prefill", f"int{b}", b, 32, m, 1 / 0.62) for b in range(2, 9)),
        *(Row("prefill", f"uint{b}", b, 32, m, 1 / 0.5, asymmetric=True) for b in range(2, 9)),
    )
)
ROWS = (*DECODE, *WIDE, *PREFILL)
