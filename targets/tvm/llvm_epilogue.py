# SPDX-License-Identifier: Apache-2.0
"""From sums to codes in tensor expressions (N12, N17, N18): `(v · m + 2^(e−1)) >> e`, and a clip.

AVX2 has no arithmetic shift of 64 bits. Where the numbers of a layer leave room for it, 2^62 is
added before a logical shift and 2^(62−e) taken off behind it, and codes are clipped as int32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from qcompile.integer_graph import CodeMap, Conv
from qcompile.numerics.dyadic import DyadicPair
from qcompile.numerics.requantize import Dyadic
from qcompile.targets.tvm.channels import EXPONENT, MULTIPLIER
from qcompile.targets.tvm.plan import code_kind

# Rows of a table int64 [4, N]; the first two as in channels.py.
ADDEND, BEHIND = 2, 3
OFFSET = 1 << 62


def requantize(value: Any, table: Any, n: Any) -> Any:
    """`(value · m + 2^(e−1)) >> e` by column n of a channel table; int32 to int64 (N12)."""
    m, e = table[MULTIPLIER, n].astype("int64"), table[EXPONENT, n].astype("int64")
    half = tirx.shift_left(tirx.const(1, "int64"), e - 1)
    return tirx.shift_right(value.astype("int64") * m + half, e)


def to_code(value: Any, y: CodeMap, limits: tuple[int, int], kind: str = "int64") -> Any:
    """The clamped code of a value of that type (N12)."""
    low, high = (tirx.const(limit, kind) for limit in limits)
    return tirx.max(tirx.min(value + y.zero_point, high), low).astype(code_kind(y))


def centred(code: Any, x: CodeMap) -> Any:
    """A code less its zero point, int64."""
    return (code.astype("int32") - x.zero_point).astype("int64")


def added(left: Any, right: Any, scale: DyadicPair, y: CodeMap, limits: tuple[int, int]) -> Any:
    """The code of the sum of two centred codes (N18), whose parts are below 2^41."""
    total = left * tirx.const(scale.a, "int64") + right * tirx.const(scale.b, "int64")
    half, e = tirx.const((1 << (scale.exponent - 1)) + OFFSET, "int64"), scale.exponent
    high = tirx.shift_right((total + half).astype("uint64"), tirx.const(e, "uint64"))
    most = (255 * (abs(scale.a) + abs(scale.b)) >> e) + 512
    kind = "int32" if most < 1 << 31 else "int64"
    value = (high.astype("int64") - tirx.const(OFFSET >> e, "int64")).astype(kind)
    return to_code(value, y, limits, kind)


@dataclass(frozen=True)
class Scaling:
    """A requantization with its bias inside: table int64 [4, N], which `apply` reads.

    is_shifted: 2^62 is in the addend and taken off behind. kind: the type of the values, int32
    where it holds all of them before the clip.
    """

    table: NDArray[np.int64]
    is_shifted: bool
    kind: str

    def apply(self, value: Any, table: Any, n: Any) -> Any:
        """int32 sums to values of `kind`."""
        # the product of two numbers of 32 bits, which LLVM sees by the casts
        m = table[MULTIPLIER, n].astype("int32").astype("int64")
        e, total = table[EXPONENT, n], value.astype("int64") * m + table[ADDEND, n]
        if not self.is_shifted:
            return tirx.shift_right(total, e).astype(self.kind)
        high = tirx.shift_right(total.astype("uint64"), e.astype("uint64"))
        return (high.astype("int64") - table[BEHIND, n]).astype(self.kind)


def scaling(scale: Dyadic, bias: NDArray[np.int64], bound: NDArray[np.int64], N: int) -> Scaling:
    """Of sums whose |value + bias| is at most `bound`; columns up to N are 0."""
    count = len(bias)
    m, e = (
        np.broadcast_to(part, count).astype(np.int64) for part in (scale.multiplier, scale.exponent)
    )
    half = np.int64(1) << (e - 1)
    largest = max(int(b) * int(f) + int(h) for b, f, h in zip(bound, m, half, strict=True))
    is_shifted = largest < OFFSET
    table = np.zeros((4, N), np.int64)
    table[MULTIPLIER, :count], table[EXPONENT, :count] = m, e
    table[ADDEND, :count] = bias * m + half
    if is_shifted:
        table[ADDEND] += OFFSET
        table[BEHIND] = OFFSET >> table[EXPONENT]
    kind = "int32" if largest_value(scale, bound) + 255 < 1 << 31 else "int64"
    return Scaling(table, is_shifted, kind)


def largest_value(scale: Dyadic, bound: NDArray[np.int64]) -> int:
    """The largest magnitude that values up to `bound` are requantized to."""
    m, e = (np.broadcast_to(p, len(bound)).tolist() for p in (scale.multiplier, scale.exponent))
    parts = zip(bound.tolist(), m, e, strict=True)
    return max((b * f + (1 << (s - 1)) >> s) + 1 for b, f, s in parts)


def finish(conv: Conv, value: Any, kind: str, residual: Any) -> Any:
    """The code or rescaled sum that a convolution stores; residual: the code that is added."""
    more = conv.residual
    if more is None:
        return to_code(value, conv.y, conv.limits, kind)
    own = centred(to_code(value, more.own, more.own_limits, kind), more.own)
    other = centred(residual, more.other)
    return added(own, other, more.scale, conv.y, conv.limits)
