# SPDX-License-Identifier: Apache-2.0
"""Mean and deviation of a value's channels, which a BatchNormalization of the user's model knows.

Kept on the value when the node is folded or split, for ranges without data; no file holds them.
A rewrite that changes what a value means moves, changes or drops them.
"""

from dataclasses import dataclass

import onnx_ir as ir
from numpy.typing import NDArray

_KEY = "qcompile.channel_statistics"


@dataclass(frozen=True)
class ChannelStatistics:
    """mean, deviation: float64 [C], along axis 1."""

    mean: NDArray
    deviation: NDArray


def statistics_of(value: ir.Value) -> ChannelStatistics | None:
    """What is known of the value."""
    found = value.meta.get(_KEY)
    return found if isinstance(found, ChannelStatistics) else None


def keep(value: ir.Value, mean: NDArray, deviation: NDArray) -> None:
    """Remember them; deviation may have a sign."""
    value.meta[_KEY] = ChannelStatistics(mean, abs(deviation))


def move(old: ir.Value, new: ir.Value) -> None:
    """`new` is from now on what `old` was."""
    found = old.meta.pop(_KEY, None)
    if found is not None:
        new.meta[_KEY] = found


def copy(old: ir.Value, new: ir.Value) -> None:
    """`new` has the channels of `old`."""
    found = statistics_of(old)
    if found is not None:
        new.meta[_KEY] = found


def change(value: ir.Value, factor: NDArray, shift: NDArray) -> None:
    """The value is from now on its old self · factor [C] + shift [C]."""
    found = statistics_of(value)
    if found is not None:
        keep(value, found.mean * factor + shift, found.deviation * factor)


def drop(value: ir.Value) -> None:
    """Nothing is known of the value any more."""
    value.meta.pop(_KEY, None)
