# SPDX-License-Identifier: Apache-2.0
"""What an NVIDIA T4 could do at best: the roofline of a layer, and a model that chooses its tile.

Nothing here was measured. The roofline is the peak of the data sheet; the model adds the padding of
tiles, waves of blocks and the traffic of shared memory, and ranks tiles where no GPU can.
"""

import math
from dataclasses import dataclass
from functools import cache

from qcompile.integer_graph import CodeMap, Conv, Node
from qcompile.targets.tvm.cuda_conv import Shapes
from qcompile.targets.tvm.cuda_maps import word_shape
from qcompile.targets.tvm.tile import STEP_WORDS, WARP, Tile, tiles


@dataclass(frozen=True)
class Device:
    """Peaks of a GPU: operations a second (a multiply-add is two), bytes a second."""

    name: str
    int8_ops: float
    int4_ops: float
    bandwidth: float
    num_sms: int
    clock: float
    shared_bytes: int
    registers: int
    threads: int
    blocks: int

    def ops(self, bits: int) -> float:
        """The peak for operands of that width."""
        return self.int4_ops if bits == 4 else self.int8_ops


# NVIDIA T4: 130 TOPS at 8 bits, 260 at 4, 320 GB/s, 320 tensor cores in 40 SMs (NVIDIA, announced
# 2018-09-13; heise.de, news 4164684, has the same figures). The limits of an SM are those of
# compute capability 7.5 (CUDA C++ Programming Guide, table of technical specifications).
T4 = Device("NVIDIA T4", 130e12, 260e12, 320e9, 40, 1.59e9, 64 * 1024, 65_536, 1024, 16)
# One mma.m8n8 a cycle and SM: 1024 products · 2 · 40 · 1.59 GHz = 130 Tera-operations at 8 bits.
MMA_CYCLES = 1
# 16 load and store units an SM, a word of 4 bytes each (Cornell Virtual Workshop, "Turing SM").
SHARED_BYTES_PER_CYCLE = 64
L2_CYCLES = 236  # measured on an RTX 2070 (github.com/sjfeng1999/gpu-arch-microbenchmark)
# Assumptions with no source, which only rank tiles: the L2 cache against memory, and a barrier.
CACHE_SPEED = 4
BARRIER_CYCLES = 30
# A chunk is fetched while the last one is multiplied: none takes less than a read of the L2.
CHUNK_CYCLES = L2_CYCLES + BARRIER_CYCLES
# Registers of a thread beside accumulators and words in flight (addresses, loop, epilogue).
OTHER_REGISTERS = 48


@dataclass(frozen=True)
class Roof:
    """One layer: its operations, its bytes, and the times below which no kernel gets."""

    name: str
    bits: int
    ops: int
    num_bytes: int
    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The roofline."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        """What limits the layer."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"


def roof(node: Node, batch: int, device: Device = T4) -> Roof:
    """The roofline of a layer: every map and weight crosses the memory bus once."""
    num_bytes = sum(map_bytes(x, batch) for x in (*node.inputs(), node.y))
    ops, bits = 0, 8
    if isinstance(node, Conv):
        bits = node.x.bits
        ops = 2 * node.num_products * batch
        num_bytes += node.weight.size * bits // 8 + 12 * len(node.bias)
    compute = ops / device.ops(bits)
    return Roof(node.y.name, bits, ops, num_bytes, compute, num_bytes / device.bandwidth)


def map_bytes(x: CodeMap, batch: int) -> int:
    """Bytes of a map on the device."""
    return 4 * math.prod(word_shape(x, batch))


def blocks_per_sm(tile: Tile, device: Device = T4, registers: int | None = None) -> int:
    """Blocks that are resident on an SM: the least of what memory, registers and threads allow."""
    each = OTHER_REGISTERS + tile.sums if registers is None else registers
    return min(
        device.shared_bytes // tile.shared_bytes,
        device.registers // (each * tile.threads),
        device.threads // tile.threads,
        device.blocks,
    )


def model_seconds(shapes: Shapes, device: Device = T4) -> float:
    """The modelled time of one convolution with one tile."""
    tile = shapes.tile
    resident = blocks_per_sm(tile, device)
    if resident == 0:
        return math.inf
    warps = tile.row_warps * tile.col_warps
    steps = tile.chunk // STEP_WORDS
    mmas = warps * tile.row_tiles * tile.col_tiles * steps
    fragments = warps * (tile.row_tiles + tile.col_tiles) * steps * WARP * 4
    staged = (tile.rows + tile.outputs) * tile.chunk * 4
    tensor, memory = mmas * MMA_CYCLES, (fragments + staged) / SHARED_BYTES_PER_CYCLE
    num_blocks = shapes.grid[0] * shapes.grid[1]
    per_sm = -(-num_blocks // device.num_sms)
    together = min(resident, per_sm)
    # Blocks of an SM overlap each other; one block alone multiplies and stages in turn.
    cycles = max(together * max(tensor, memory), tensor + memory + BARRIER_CYCLES, CHUNK_CYCLES)
    compute = -(-per_sm // together) * shapes.num_chunks * cycles / device.clock
    # Every block of rows reads all weights of its outputs, every block of outputs all its rows.
    traffic = num_blocks * shapes.num_chunks * staged
    cached = roof(shapes.conv, shapes.batch, device).num_bytes
    bus = cached / device.bandwidth + traffic / (CACHE_SPEED * device.bandwidth)
    return max(compute, bus)


def choose_tile(conv: Conv, batch: int) -> Tile:
    """The legal tile that the model finds fastest."""
    return min(_tiles(), key=lambda t: (model_seconds(Shapes(conv, batch, t)), -t.chunk, t))


@cache
def _tiles() -> tuple[Tile, ...]:
    return tuple(tiles())
