# SPDX-License-Identifier: Apache-2.0
"""From sums to codes in tensor expressions (N12, N17, N18), int64 until the clip."""

from typing import Any

from tvm import tirx

from qcompile.integer_graph import CodeMap, Conv
from qcompile.numerics.dyadic import DyadicPair
from qcompile.targets.tvm.channels import EXPONENT, MULTIPLIER
from qcompile.targets.tvm.plan import code_kind


def requantize(value: Any, table: Any, n: Any) -> Any:
    """`(value · m + 2^(e−1)) >> e` by column n of a channel table; int32 to int64 (N12)."""
    m, e = table[MULTIPLIER, n].astype("int64"), table[EXPONENT, n].astype("int64")
    half = tirx.shift_left(tirx.const(1, "int64"), e - 1)
    return tirx.shift_right(value.astype("int64") * m + half, e)


def to_code(value: Any, y: CodeMap, limits: tuple[int, int]) -> Any:
    """The clamped code of an int64 value (N12)."""
    low, high = (tirx.const(limit, "int64") for limit in limits)
    return tirx.max(tirx.min(value + y.zero_point, high), low).astype(code_kind(y))


def centred(code: Any, x: CodeMap) -> Any:
    """A code less its zero point, int64."""
    return code.astype("int64") - x.zero_point


def add(left: Any, right: Any, scale: DyadicPair) -> Any:
    """The sum of two centred codes, int64 (N18)."""
    total = left * tirx.const(scale.a, "int64") + right * tirx.const(scale.b, "int64")
    half = tirx.const(1 << (scale.exponent - 1), "int64")
    return tirx.shift_right(total + half, tirx.const(scale.exponent, "int64"))


def finish(conv: Conv, total: Any, channels: Any, n: Any, residual: Any) -> Any:
    """The code or rescaled sum that a convolution stores; residual: the code that is added."""
    value, added = requantize(total, channels, n), conv.residual
    if added is None:
        return to_code(value, conv.y, conv.limits)
    own = centred(to_code(value, added.own, added.own_limits), added.own)
    return to_code(add(own, centred(residual, added.other), added.scale), conv.y, conv.limits)
