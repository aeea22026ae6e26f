# SPDX-License-Identifier: Apache-2.0
"""Convolution and dense of few rows by dp4a: 32 outputs a block, its warps share the reduction.

A tensor-core tile needs at least eight rows and one warp walks the whole reduction; a classifier
of a few samples leaves both idle. Here a lane owns an output, a warp every eighth word, and the
partial sums meet in shared memory. Codes of 8 bits only: sm_75 has no dot product of 4.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script.builder import ir as T

from qcompile.integer_graph import Conv
from qcompile.targets.tvm import cuda_epilogue as epilogue
from qcompile.targets.tvm import cuda_ptx as ptx
from qcompile.targets.tvm import words
from qcompile.targets.tvm.channels import BIAS
from qcompile.targets.tvm.cuda_frame import barrier, flat, function, parameter, when
from qcompile.targets.tvm.cuda_maps import word_shape

LANES = 32
WARPS = 8
MOST_ROWS = 8


@dataclass(frozen=True)
class ThinShapes:
    """One convolution of at most MOST_ROWS output pixels."""

    conv: Conv
    batch: int

    @property
    def num_rows(self) -> int:
        """Pixels of all outputs."""
        return self.batch * self.conv.y.shape[0] * self.conv.y.shape[1]

    @property
    def channel_words(self) -> int:
        """Words of an input pixel."""
        return words.num_words(self.conv.x.shape[2], 8)

    @property
    def num_words(self) -> int:
        """Words of one reduction."""
        kh, kw = self.conv.window.kernel
        return kh * kw * self.channel_words

    @property
    def padded_outputs(self) -> int:
        """Outputs with the padding of the last block."""
        return self.blocks * LANES

    @property
    def blocks(self) -> int:
        """Blocks of 32 outputs."""
        return -(-self.conv.y.shape[2] // LANES)

    def fits(self) -> bool:
        """Whether this kernel is the one for the convolution."""
        return self.conv.x.bits == 8 and self.num_rows <= MOST_ROWS


def pack_weight(s: ThinShapes) -> NDArray[np.int32]:
    """Words [num_words, outputs], so that the lanes of a warp read one line."""
    N = len(s.conv.weight)
    packed = words.pack(s.conv.weight, 8).reshape(N, s.num_words)
    return np.ascontiguousarray(np.pad(packed, ((0, s.padded_outputs - N), (0, 0))).T)


class ThinKernel:
    """Emits (x, weight, channels, [residual,] y)."""

    def __init__(self, shapes: ThinShapes, name: str) -> None:
        self.s, self.conv, self.name = shapes, shapes.conv, name

    def build(self) -> Any:
        """The function."""
        return function(self.name, self._emit)

    def _emit(self) -> None:
        s, conv = self.s, self.conv
        padded = s.padded_outputs
        self.x = parameter("x", word_shape(conv.x, s.batch))
        self.weight = parameter("weight", (s.num_words, padded))
        self.table = parameter("channels", (3, padded))
        if conv.residual is not None:
            self.residual = parameter("residual", word_shape(conv.residual.other, s.batch))
        self.y = parameter("y", word_shape(conv.y, s.batch))
        self.x, self.y = flat(self.x), flat(self.y)
        if conv.residual is not None:
            self.residual = flat(self.residual)
        with (
            T.launch_thread("blockIdx.x", s.blocks) as self.block,
            T.launch_thread("threadIdx.x", LANES * WARPS) as self.thread,
        ):
            self._body()

    def _body(self) -> None:
        s = self.s
        warp, lane = self.thread // LANES, self.thread % LANES
        sums = T.alloc_buffer((s.num_rows,), "int32", scope="local")
        self.shared = T.alloc_buffer((WARPS * s.num_rows * LANES,), "int32", scope="shared")
        for r in range(s.num_rows):
            T.buffer_store(sums, T.int32(0), [r])
        with T.serial(-(-s.num_words // WARPS)) as step:
            k = step * WARPS + warp
            with when(True if s.num_words % WARPS == 0 else k < s.num_words):
                for r in range(s.num_rows):
                    w = self.weight[k, self.block * LANES + lane]
                    total = ptx.dp4a(sums[r], self._word(r, k), w, is_signed=self.conv.x.is_signed)
                    T.buffer_store(sums, total, [r])
        for r in range(s.num_rows):
            place = (warp * s.num_rows + r) * LANES + lane
            T.buffer_store(self.shared, sums[r], [place])
        barrier()
        self._store()

    def _word(self, r: int, k: Any) -> Any:
        """Word k of the window of pixel r; outside the map the zero point."""
        s, conv = self.s, self.conv
        (H, W, _), (OH, OW, _) = conv.x.shape, conv.y.shape
        (sh, sw), (top, left) = conv.window.strides, conv.window.pads[:2]
        tap, c = k // s.channel_words, k % s.channel_words
        ih = r // OW % OH * sh - top + tap // conv.window.kernel[1]
        iw = r % OW * sw - left + tap % conv.window.kernel[1]
        word = self.x[((r // (OH * OW) * H + ih) * W + iw) * s.channel_words + c]
        if not any(conv.window.pads):
            return word
        inside = T.And(T.And(ih >= 0, ih < H), T.And(iw >= 0, iw < W))
        return T.if_then_else(inside, word, T.int32(words.repeat(conv.x.zero_point, 8)))

    def _store(self) -> None:
        """Each thread finishes one word of y: one sum, or the codes that share a word."""
        s, y = self.s, self.conv.y
        fields = words.per_word(y.bits)
        row_words, y_words = LANES // fields, words.num_words(y.shape[2], y.bits)
        for load in range(-(-s.num_rows * row_words // (LANES * WARPS))):
            slot = load * (LANES * WARPS) + self.thread
            row, word = slot // row_words, slot % row_words
            column = self.block * row_words + word
            with when(T.And(row < s.num_rows, column < y_words)):
                values = [self._value(row, word * fields + f) for f in range(fields)]
                result = values[0] if y.bits == 32 else epilogue.join(values, y.bits)
                T.buffer_store(self.y, result, [row * y_words + column])

    def _value(self, row: Any, column: Any) -> Any:
        """The rescaled sum or code of one output."""
        conv, n = self.conv, self.block * LANES + column
        total = self.table[BIAS, n]
        for warp in range(WARPS):
            total = total + self.shared[(warp * self.s.num_rows + row) * LANES + column]
        residual = None if conv.residual is None else self.residual
        return epilogue.finish(conv, total, self.table, n, residual, row)
