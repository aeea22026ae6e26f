# SPDX-License-Identifier: Apache-2.0
"""Convolution and dense on tensor cores: an implicit product of words, one CUDA block a tile.

    rows      pixels of the output, all samples
    outputs   channels of the output
    words     taps × channel words of the input, four or eight codes each

Both operands are staged in shared memory, two stages deep; the next chunk travels through
registers while the present one is multiplied. mma.m8n8 takes one word of 8 rows × 4 words a lane
at 8 and at 4 bits alike, so that one kernel serves both. Padded pixels read the zero point,
padded words meet weights of 0. Requantization, residual and clip follow in registers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script.builder import ir as T

from qcompile.integer_graph import Conv
from qcompile.targets.tvm import cuda_ptx as ptx
from qcompile.targets.tvm import words
from qcompile.targets.tvm.channels import BIAS
from qcompile.targets.tvm.cuda_frame import barrier, flat, function, parameter, run, when
from qcompile.targets.tvm.cuda_maps import word_shape
from qcompile.targets.tvm.cuda_store import store_codes, store_sums
from qcompile.targets.tvm.tile import FRAGMENT, STEP_WORDS, WARP, Tile

OUTSIDE = -(1 << 20)  # the row of a pixel that no tap reaches


@dataclass(frozen=True)
class Shapes:
    """What the kernel knows at compile time: one convolution, its batch and its tile."""

    conv: Conv
    batch: int
    tile: Tile

    @property
    def channel_words(self) -> int:
        """Words of an input pixel."""
        return words.num_words(self.conv.x.shape[2], self.conv.x.bits)

    @property
    def num_words(self) -> int:
        """Words of one reduction."""
        kh, kw = self.conv.window.kernel
        return kh * kw * self.channel_words

    @property
    def num_chunks(self) -> int:
        """Stages of one reduction."""
        return -(-self.num_words // self.tile.chunk)

    @property
    def num_rows(self) -> int:
        """Pixels of all outputs."""
        return self.batch * self.conv.y.shape[0] * self.conv.y.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks over rows and over outputs."""
        N = self.conv.y.shape[2]
        return -(-self.num_rows // self.tile.rows), -(-N // self.tile.outputs)

    @property
    def padded_outputs(self) -> int:
        """Outputs with the padding of the last tile."""
        return self.grid[1] * self.tile.outputs

    @property
    def vector(self) -> int:
        """Words that one thread loads at once: they belong to one pixel, or it is one word."""
        return 4 if self.channel_words % 4 == 0 else 1


def pack_weight(s: Shapes) -> NDArray[np.int32]:
    """Words [N tiles, chunks, outputs, chunk]: the order in which blocks read them."""
    conv, tile = s.conv, s.tile
    N = len(conv.weight)
    packed = words.pack(conv.weight, conv.x.bits).reshape(N, s.num_words)
    extra = s.num_chunks * tile.chunk - s.num_words
    padded = np.pad(packed, ((0, s.padded_outputs - N), (0, extra)))
    tiled = padded.reshape(s.grid[1], tile.outputs, s.num_chunks, tile.chunk)
    return np.ascontiguousarray(tiled.transpose(0, 2, 1, 3))


class ConvKernel:
    """Emits the kernel of one Shapes; the parts are in the order in which they run."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        self.s, self.t, self.conv, self.name = shapes, shapes.tile, shapes.conv, name

    def build(self) -> Any:
        """The function (x, weight, channels, [residual,] y)."""
        return function(self.name, self._emit)

    def _emit(self) -> None:
        self._parameters()
        blocks, outputs = self.s.grid
        with (
            T.launch_thread("blockIdx.x", blocks) as self.row_block,
            T.launch_thread("blockIdx.y", outputs) as self.col_block,
            T.launch_thread("threadIdx.x", self.t.threads) as self.thread,
        ):
            self._body()

    def _parameters(self) -> None:
        s, conv = self.s, self.conv
        self.x = parameter("x", word_shape(conv.x, s.batch))
        self.weight = parameter("weight", (s.grid[1], s.num_chunks, self.t.outputs, self.t.chunk))
        self.table = parameter("channels", (3, s.padded_outputs))
        self.residual = None
        if conv.residual is not None:
            self.residual = parameter("residual", word_shape(conv.residual.other, s.batch))
        self.y = parameter("y", word_shape(conv.y, s.batch))

    def _body(self) -> None:
        t = self.t
        warp, lane = self.thread // WARP, self.thread % WARP
        self.warp_row = warp // t.col_warps * (t.row_tiles * FRAGMENT)
        self.warp_col = warp % t.col_warps * (t.col_tiles * FRAGMENT)
        self.lane_row, self.lane_word = lane // STEP_WORDS, lane % STEP_WORDS
        self.shared_x = T.alloc_buffer((2 * t.rows * t.stride,), "int32", scope="shared")
        self.shared_w = T.alloc_buffer((2 * t.outputs * t.stride,), "int32", scope="shared")
        self._find_pixels()
        self.next_x = T.alloc_buffer((self.x_loads * self.s.vector,), "int32", scope="local")
        self.next_w = T.alloc_buffer((self.w_loads * 4,), "int32", scope="local")
        self.sums = T.alloc_buffer((t.sums,), "int32", scope="local")
        self._start_sums()
        self._fetch(T.int32(0))
        self._stage(T.int32(0))
        barrier()
        with T.serial(self.s.num_chunks) as chunk:
            with when(chunk + 1 < self.s.num_chunks):
                self._fetch(chunk + 1)
            self._multiply(chunk % 2)
            with when(chunk + 1 < self.s.num_chunks):
                self._stage((chunk + 1) % 2)
            barrier()
        if self.conv.y.bits == 32:
            store_sums(self)
        else:
            store_codes(self)

    @property
    def x_loads(self) -> int:
        """Loads of activations that a thread does for one chunk."""
        return -(-self.t.rows * self.t.chunk // (self.s.vector * self.t.threads))

    @property
    def w_loads(self) -> int:
        """The same for weights, four words each."""
        return -(-self.t.outputs * self.t.chunk // (4 * self.t.threads))

    def _slot(self, load: int, vector: int) -> tuple[Any, Any]:
        """Row and word within the chunk that this thread moves in a load."""
        per_row = self.t.chunk // vector
        row = load * (self.t.threads // per_row) + self.thread // per_row
        return row, self.thread % per_row * vector

    def _find_pixels(self) -> None:
        """The first input row and column under the kernel for each pixel of this thread."""
        OH, OW, _ = self.conv.y.shape
        (sh, sw), (top, left) = self.conv.window.strides, self.conv.window.pads[:2]
        _, W, _ = self.conv.x.shape
        self.first_row, self.first_col, self.origin = (
            T.alloc_buffer((self.x_loads,), "int32", scope="local") for _ in range(3)
        )
        H = self.conv.x.shape[0]
        for i in range(self.x_loads):
            row = self._slot(i, self.s.vector)[0]
            pixel = self.row_block * self.t.rows + row
            ih = pixel // OW % OH * sh - top
            iw = pixel % OW * sw - left
            is_real = pixel < self.s.num_rows
            T.buffer_store(self.first_row, T.if_then_else(is_real, ih, OUTSIDE), [i])
            T.buffer_store(self.first_col, iw, [i])
            origin = ((pixel // (OH * OW) * H + ih) * W + iw) * self.s.channel_words
            T.buffer_store(self.origin, origin, [i])

    def _start_sums(self) -> None:
        for j in range(self.t.col_tiles):
            for h in range(2):
                bias = self.table[BIAS, self.output(j, h)]
                for i in range(self.t.row_tiles):
                    T.buffer_store(self.sums, bias, [self.sum(i, j, h)])

    def sum(self, i: int, j: int, h: int) -> int:
        """Where a lane keeps half h of mma tile i, j (PTX: c0 and c1 are adjacent columns)."""
        return (i * self.t.col_tiles + j) * 2 + h

    def row(self, i: int) -> Any:
        """The row within the block that this lane holds of mma tile i."""
        return self.warp_row + i * FRAGMENT + self.lane_row

    def column(self, j: int, h: int) -> Any:
        """The column within the block that this lane holds."""
        return self.warp_col + j * FRAGMENT + self.lane_word * 2 + h

    def output(self, j: int, h: int) -> Any:
        """The output channel of it."""
        return self.col_block * self.t.outputs + self.column(j, h)

    def _fetch(self, chunk: Any) -> None:
        """The words of one chunk, from memory to registers."""
        s, t, vector = self.s, self.t, self.s.vector
        x, w = flat(self.x), flat(self.weight)
        for i in range(self.x_loads):
            row, word = self._slot(i, vector)
            position = chunk * t.chunk + word
            tap, c = position // s.channel_words, position % s.channel_words
            kh, kw = tap // self.conv.window.kernel[1], tap % self.conv.window.kernel[1]
            W = self.conv.x.shape[1]
            address = self.origin[i] + (kh * W + kw) * s.channel_words + c
            target = run(i * vector, vector)
            pad = T.int32(words.repeat(self.conv.x.zero_point, self.conv.x.bits))
            with T.If(T.And(row < t.rows, self._is_inside(i, position, kh, kw))):
                with T.Then():
                    T.buffer_store(self.next_x, x[run(address, vector)], [target])
                with T.Else():
                    filled = pad if vector == 1 else T.Broadcast(pad, vector)
                    T.buffer_store(self.next_x, filled, [target])
        start = (self.col_block * s.num_chunks + chunk) * (t.outputs * t.chunk)
        for i in range(self.w_loads):
            row, word = self._slot(i, 4)
            with when(row < t.outputs):
                address = start + row * t.chunk + word
                T.buffer_store(self.next_w, w[run(address, 4)], [run(i * 4, 4)])

    def _is_inside(self, i: int, position: Any, kh: Any, kw: Any) -> Any:
        """Whether the tap of a pixel lies on the map, and the word in the reduction."""
        H, W, _ = self.conv.x.shape
        ih, iw = self.first_row[i] + kh, self.first_col[i] + kw
        inside = T.And(ih >= 0, position < self.s.num_words)
        if any(self.conv.window.pads):
            inside = T.And(inside, T.And(ih < H, T.And(iw >= 0, iw < W)))
        return inside

    def _stage(self, stage: Any) -> None:
        """The words of one chunk, from registers to shared memory."""
        t, vector = self.t, self.s.vector
        for shared, held, loads, width, rows in (
            (self.shared_x, self.next_x, self.x_loads, vector, t.rows),
            (self.shared_w, self.next_w, self.w_loads, 4, t.outputs),
        ):
            for i in range(loads):
                row, word = self._slot(i, width)
                with when(row < rows):
                    address = (stage * rows + row) * t.stride + word
                    T.buffer_store(shared, held[run(i * width, width)], [run(address, width)])

    def _multiply(self, stage: Any) -> None:
        """All mma of one chunk."""
        t, x = self.t, self.conv.x
        a = T.alloc_buffer((t.row_tiles,), "int32", scope="local")
        b = T.alloc_buffer((t.col_tiles,), "int32", scope="local")
        for step in range(t.chunk // STEP_WORDS):
            word = step * STEP_WORDS + self.lane_word
            for i in range(t.row_tiles):
                row = stage * t.rows + self.warp_row + i * FRAGMENT + self.lane_row
                T.buffer_store(a, self.shared_x[row * t.stride + word], [i])
            for j in range(t.col_tiles):
                row = stage * t.outputs + self.warp_col + j * FRAGMENT + self.lane_row
                T.buffer_store(b, self.shared_w[row * t.stride + word], [j])
            for i in range(t.row_tiles):
                for j in range(t.col_tiles):
                    sums = self.sums.access_ptr("rw", offset=self.sum(i, j, 0))
                    T.evaluate(ptx.mma(sums, a[i], b[j], x.bits, is_signed=x.is_signed))
