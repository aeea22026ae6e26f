# SPDX-License-Identifier: Apache-2.0
"""QuantParams: the scale and zero point that a range gives (whitepaper, section 2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.quantize import SMALLEST_SCALE


@dataclass(frozen=True)
class QuantParams:
    """What calibration found for one tensor: f32 scale and the code of 0.

    scales: float32 [C] where every channel has its own; scale is then that of the whole tensor.
    steps: float32 [T] where every bucket of time steps has its own; scale is then the largest.
    """

    scale: float
    zero_point: int
    format: Format
    scales: NDArray[np.float32] | None = None
    steps: NDArray[np.float32] | None = None


def params_of_range(low: float, high: float, format: Format) -> QuantParams:
    """Unsigned codes for low … high, extended to contain 0 (N3); the code of 0 is exact.

    >>> from qcompile.formats import get
    >>> params_of_range(-1.0, 254.0, get("uint8")).zero_point
    1
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high == low:
        return QuantParams(1.0, 0, format)
    scale = np.float32(max((high - low) / format.code_max, float(SMALLEST_SCALE)))
    zero_point = int(np.clip(np.rint(-low / float(scale)), 0, format.code_max))
    return QuantParams(float(scale), zero_point, format)


def params_of_channels(ranges: Sequence[tuple[float, float]], format: Format) -> QuantParams:
    """Unsigned codes with a scale a channel and the zero point of the whole tensor (N3).

    With one zero point a kernel needs no other sum than for one scale (N11). A channel's scale is
    the least that holds its range, and at most that of the tensor.

    >>> from qcompile.formats import get
    >>> params_of_channels([(0.0, 255.0), (0.0, 51.0), (0.0, 0.0)], get("uint8")).scales.tolist()
    [1.0, 0.20000000298023224, 1.0]
    """
    whole = params_of_range(min(r[0] for r in ranges), max(r[1] for r in ranges), format)
    below, above = whole.zero_point, format.code_max - whole.zero_point
    low, high = (np.array([r[i] for r in ranges], np.float64) for i in (0, 1))
    needed = np.zeros(len(ranges))
    if below:
        needed = np.maximum(needed, -low / below)
    if above:
        needed = np.maximum(needed, high / above)
    least = float(SMALLEST_SCALE)
    scales = np.where(needed > 0, np.clip(needed, least, whole.scale), whole.scale)
    return QuantParams(whole.scale, whole.zero_point, format, scales.astype(np.float32))


def params_of_steps(ranges: Sequence[tuple[float, float]], format: Format) -> QuantParams:
    """Unsigned codes with a scale for every bucket of time steps [T] and one zero point (N3).

    The zero point is an attribute of the ops, so that it cannot change with the time step. It is
    the one with the least sum of squares of scale ÷ the scale that the range would have alone; a
    scale is the least that holds its range.

    >>> from qcompile.formats import get
    >>> params_of_steps([(-128.0, 127.0), (-12.8, 12.7)], get("uint8")).steps.tolist()
    [1.0, 0.10000000149011612]
    >>> params_of_steps([(-1.0, 254.0)] * 2, get("uint8")).zero_point
    1
    """
    own = [params_of_range(low, high, format) for low, high in ranges]
    ideal, points = np.array([p.scale for p in own]), np.array([p.zero_point for p in own])
    lows, highs = (np.array([r[i] for r in ranges], np.float64) for i in (0, 1))
    point = np.arange(format.code_max + 1)[:, None]
    below = _quotient(np.maximum(-lows, 0), point)
    above = _quotient(np.maximum(highs, 0), format.code_max - point)
    needed = np.maximum(np.maximum(below, above), float(SMALLEST_SCALE))
    needed = np.where(point == points, ideal, needed)
    is_empty = (lows >= 0) & (highs <= 0)  # any scale does
    needed = np.where(is_empty, ideal, needed)
    chosen = int(np.square(needed / ideal).sum(1).argmin())
    steps = needed[chosen].astype(np.float32)
    return QuantParams(float(steps.max()), chosen, format, steps=steps)


def _quotient(size: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """size / codes; 0 where there is nothing to hold, infinite where no code holds it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size > 0, size / codes, 0.0)
