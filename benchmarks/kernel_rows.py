# SPDX-License-Identifier: Apache-2.0
"""The rows of benchmarks.kernels, and the goal of each; a new format is one more line."""

from dataclasses import dataclass

PEERS = "best peer"
LIMIT = "limit"
K = N = 4096


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

    @property
    def name(self) -> str:
        """As printed."""
        block = f"block {self.block}" if self.block else "per channel"
        words = [self.part, f"M={self.m}", self.format, block]
        return " ".join(words + (["asymmetric"] if self.asymmetric else []))

    @property
    def peer_block(self) -> int:
        """What the peers take: a power of two."""
        return self.block if self.block & (self.block - 1) == 0 else 128

    @property
    def weight_bytes(self) -> float:
        """With scales of 16 bits, as the limit counts them."""
        return K * N * (self.bits + (16 / self.block if self.block else 16 / K)) / 8


DECODE = (
    Row("decode", "int8", 8, 0, 1, 1 / 0.93),
    Row("decode", "int6", 6, 128, 1, 1 / 0.88),
    Row("decode", "int5", 5, 128, 1, 1 / 0.88),
    Row("decode", "int4", 4, 128, 1, 1.06),
    Row("decode", "int4", 4, 32, 1, 1.1),
    Row("decode", "int3", 3, 128, 1, 1.1),
    Row("decode", "int2", 2, 128, 1, 1.08),
    Row("decode", "int2", 2, 32, 1, 1.15),
    Row("decode", "ternary", 1.6, 160, 1, 0.5, PEERS),
    Row("decode", "int1", 1, 128, 1, 0.42, "ORT 2 bit"),
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
FLOAT = (Row("w4a16", "int4", 4, 128, 1, 0.6, "ORT 4 bit level 0", activation="f32"),)
ROWS = (*DECODE, *FLOAT, *PREFILL)
