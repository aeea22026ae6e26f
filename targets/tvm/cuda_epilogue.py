# SPDX-License-Identifier: Apache-2.0
"""From sums to codes inside a CUDA kernel: dyadic requantization, residual, clip (N12, N17, N18).

All arithmetic up to the clip is int64, as in numerics; on the GPU a shift of 64 bits is two
instructions.
"""

from typing import Any

from tvm.tirx.script.builder import ir as T

from qcompile.integer_graph import CodeMap, Conv
from qcompile.numerics.dyadic import DyadicPair
from qcompile.targets.tvm.channels import EXPONENT, MULTIPLIER
from qcompile.targets.tvm.words import num_words, per_word


def requantize(value: Any, table: Any, n: Any) -> Any:
    """`(value · m + 2^(e−1)) >> e` by row n of a channel table; int32 to int64 (N12)."""
    m, e = T.cast(table[MULTIPLIER, n], "int64"), T.cast(table[EXPONENT, n], "int64")
    half = T.shift_left(T.int64(1), e - T.int64(1))
    return T.shift_right(T.cast(value, "int64") * m + half, e)


def centred(x: CodeMap, words: Any, pixel: Any, n: Any) -> Any:
    """Channel n of a map less its zero point, int32. Beyond the map its last word is read."""
    fields = per_word(x.bits)
    count = num_words(x.shape[2], x.bits)
    word = words[pixel * count + T.min(n // fields, count - 1)]
    return extract(word, n % fields, x.bits, is_signed=x.is_signed) - x.zero_point


def add(left: Any, right: Any, scale: DyadicPair) -> Any:
    """The sum of two centred codes, int64 (N18)."""
    total = T.cast(left, "int64") * T.int64(scale.a) + T.cast(right, "int64") * T.int64(scale.b)
    half = T.int64(1 << (scale.exponent - 1))
    return T.shift_right(total + half, T.int64(scale.exponent))


def finish(conv: Conv, total: Any, table: Any, n: Any, residual: Any, pixel: Any) -> Any:
    """The code or rescaled sum that a convolution stores, int32; residual: the added words."""
    value, added = requantize(total, table, n), conv.residual
    if added is None:
        point = 0 if conv.y.bits == 32 else conv.y.zero_point
        return to_code(value, point, conv.limits)
    own = to_code(value, added.own.zero_point, added.own_limits) - added.own.zero_point
    summed = add(own, centred(added.other, residual, pixel, n), added.scale)
    return to_code(summed, conv.y.zero_point, conv.limits)


def to_code(value: Any, zero_point: int, limits: tuple[int, int]) -> Any:
    """The clamped code of an int64 value, int32 (N12)."""
    low, high = (T.int64(limit) for limit in limits)
    return T.cast(T.max(T.min(value + T.int64(zero_point), high), low), "int32")


def extract(word: Any, field: Any, bits: int, *, is_signed: bool) -> Any:
    """Code number `field` of a word, int32."""
    if is_signed:
        left = T.shift_left(word, T.int32(32 - bits) - field * bits)
        return T.shift_right(left, T.int32(32 - bits))
    return T.bitwise_and(T.shift_right(word, field * bits), T.int32((1 << bits) - 1))


def join(codes: list[Any], bits: int) -> Any:
    """The word (or part of it) of adjacent codes, the first in the lowest bits."""
    mask = T.int32((1 << bits) - 1)
    fields = [T.shift_left(T.bitwise_and(c, mask), T.int32(bits * i)) for i, c in enumerate(codes)]
    total = fields[0]
    for each in fields[1:]:
        total = T.bitwise_or(total, each)
    return total
