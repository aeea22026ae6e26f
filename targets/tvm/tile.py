# SPDX-License-Identifier: Apache-2.0
"""The knobs of the tensor-core kernel: how rows (pixels), outputs and words split over a block.

Names follow the schedule of HAWQ-V3 for T4 (Yao et al. 2021, appendix on hardware).
"""

from dataclasses import dataclass
from itertools import product

FRAGMENT = 8  # rows and outputs of one mma.m8n8
STEP_WORDS = 4  # words that one mma reduces: 16 codes of 8 bits or 32 of 4
WARP = 32
LARGEST_SHARED_BYTES = 48 * 1024  # static shared memory of a block, sm_75
LARGEST_SUMS = 64  # int32 accumulators a thread; beyond, registers spill


@dataclass(frozen=True, order=True)
class Tile:
    """Warps of a block, mma tiles of a warp, and words staged at a time.

    >>> Tile(2, 2, 8, 4, 16).rows, Tile(2, 2, 8, 4, 16).outputs
    (128, 64)
    """

    row_warps: int
    col_warps: int
    row_tiles: int
    col_tiles: int
    chunk: int

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.row_warps * self.row_tiles * FRAGMENT

    @property
    def outputs(self) -> int:
        """Outputs of a block."""
        return self.col_warps * self.col_tiles * FRAGMENT

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return WARP * self.row_warps * self.col_warps

    @property
    def sums(self) -> int:
        """int32 accumulators of a thread: 64 of a fragment over 32 lanes."""
        return 2 * self.row_tiles * self.col_tiles

    @property
    def stride(self) -> int:
        """Words from one staged row to the next.

        A fragment is 8 rows of 4 words. Its 32 words lie in 32 banks where the stride is an odd
        multiple of 4.
        """
        return self.chunk if self.chunk == STEP_WORDS else self.chunk + STEP_WORDS

    @property
    def shared_bytes(self) -> int:
        """Two stages of both operands, and the tile of codes that leaves."""
        stages = 2 * (self.rows + self.outputs) * self.stride * 4
        return stages + self.rows * self.outputs

    def is_legal(self) -> bool:
        """Whether a block fits, and every thread keeps one column of words in staging."""
        return (
            self.threads <= 256
            and self.threads % self.chunk == 0
            and self.sums <= LARGEST_SUMS
            and self.shared_bytes <= LARGEST_SHARED_BYTES
        )


def tiles() -> list[Tile]:
    """Every legal tile, in order."""
    warps, counts, chunks = (1, 2, 4), (1, 2, 4, 8), (4, 8, 16, 32)
    every = (Tile(*knobs) for knobs in product(warps, warps, counts, counts, chunks))
    return sorted(tile for tile in every if tile.is_legal())
