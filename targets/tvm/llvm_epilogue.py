# SPDX-License-Identifier: Apache-2.0
"""From sums to codes in tensor expressions (N12, N42), int64 until the clip as in numerics."""

from typing import Any

from tvm import tirx

from qcompile.integer_graph import CodeMap
from qcompile.targets.tvm.channels import EXPONENT, MULTIPLIER
from qcompile.targets.tvm.plan import code_kind


def requantize(value: Any, table: Any, n: Any) -> Any:
    """`(value · m + 2^(e−1)) >> e` by column n of a channel table; int32 to int64 (N12)."""
    m, e = table[MULTIPLIER, n].astype("int64"), table[EXPONENT, n].astype("int64")
    half = tirx.shift_left(tirx.const(1, "int64"), e - 1)
    return tirx.shift_right(value.astype("int64") * m + half, e)


def to_code(value: Any, y: CodeMap, limits: tuple[int, int]) -> Any:
    """The clamped code of an int64 value (N42)."""
    low, high = (tirx.const(limit, "int64") for limit in limits)
    return tirx.max(tirx.min(value + y.zero_point, high), low).astype(code_kind(y))
