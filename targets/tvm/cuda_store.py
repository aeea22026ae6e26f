# SPDX-License-Identifier: Apache-2.0
"""The last part of the convolution kernel: what leaves the registers, as sums or as codes."""

from typing import Any

from tvm.tirx.script.builder import ir as T

from qcompile.targets.tvm import cuda_epilogue as epilogue
from qcompile.targets.tvm.cuda_frame import barrier, flat
from qcompile.targets.tvm.words import num_words, per_word

# The kernel in progress: cuda_conv.ConvKernel, which imports this module.
Kernel = Any


def store_sums(kernel: Kernel) -> None:
    """Rescaled int32 sums to y [batch, OH, OW, N], each lane its own (N17)."""
    N = kernel.conv.y.shape[2]
    y = flat(kernel.y)
    for i, j, h in fragments(kernel):
        pixel, n = kernel.row_block * kernel.t.rows + kernel.row(i), kernel.output(j, h)
        with T.If(T.And(pixel < kernel.s.num_rows, n < N)), T.Then():
            T.buffer_store(y, _finished(kernel, i, j, h), [pixel * N + n])


def store_codes(kernel: Kernel) -> None:
    """Codes to y [batch, OH, OW, words]: pairs meet in shared memory and leave as words."""
    t, bits = kernel.t, kernel.conv.y.bits
    pairs_per_row, pairs_per_word = t.outputs // 2, per_word(bits) // 2
    kind = "uint16" if bits == 8 else "uint8"
    shared = T.alloc_buffer((t.rows * pairs_per_row,), kind, scope="shared")
    for i in range(t.row_tiles):
        for j in range(t.col_tiles):
            codes = [_finished(kernel, i, j, h) for h in range(2)]
            place = kernel.row(i) * pairs_per_row + kernel.column(j, 0) // 2
            T.buffer_store(shared, T.cast(epilogue.join(codes, bits), kind), [place])
    barrier()
    y, row_words = flat(kernel.y), t.outputs // per_word(bits)
    y_words = num_words(kernel.conv.y.shape[2], bits)
    for load in range(-(-t.rows * row_words // t.threads)):
        slot = load * t.threads + kernel.thread
        row, word = slot // row_words, slot % row_words
        pixel = kernel.row_block * t.rows + row
        column = kernel.col_block * row_words + word
        fits = T.And(pixel < kernel.s.num_rows, column < y_words)
        with T.If(T.And(row < t.rows, fits)), T.Then():
            pairs = [
                T.cast(shared[row * pairs_per_row + word * pairs_per_word + k], "int32")
                for k in range(pairs_per_word)
            ]
            T.buffer_store(y, epilogue.join(pairs, 2 * bits), [pixel * y_words + column])


def fragments(kernel: Kernel) -> list[tuple[int, int, int]]:
    """Row tile, column tile and half of every accumulator of a lane."""
    t = kernel.t
    return [(i, j, h) for i in range(t.row_tiles) for j in range(t.col_tiles) for h in range(2)]


def _finished(kernel: Kernel, i: int, j: int, h: int) -> Any:
    conv, n, pixel, words = kernel.conv, kernel.output(j, h), None, None
    if conv.residual is not None:
        # Rows beyond the last pixel read the last one and are not stored.
        pixel = T.min(kernel.row_block * kernel.t.rows + kernel.row(i), kernel.s.num_rows - 1)
        words = flat(kernel.residual)
    total = kernel.sums[kernel.sum(i, j, h)]
    return epilogue.finish(conv, total, kernel.table, n, words, pixel)
