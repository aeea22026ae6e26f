# SPDX-License-Identifier: Apache-2.0
"""QuantParams: the scale and zero point that a range gives (whitepaper, section 2.1)."""

from dataclasses import dataclass

import numpy as np

from qcompile.formats import Format
from qcompile.numerics.quantize import SMALLEST_SCALE


@dataclass(frozen=True)
class QuantParams:
    """What calibration found for one tensor: f32 scale and the code of 0."""

    scale: float
    zero_point: int
    format: Format


def params_of_range(low: float, high: float, format: Format) -> QuantParams:
    """Unsigned codes for low … high, extended to contain 0 (N3); the code of 0 is exact.

    >>> from qcompile.formats import get
    >>> params_of_range(-1.0, 254.0, get("uint8")).zero_point
    1
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high == low:
        return QuantParams(1.0, 0, format)
    scale = np.float32(max((high - low) / format.code_max, float(SMALLEST_SCALE["f32"])))
    zero_point = int(np.clip(np.rint(-low / float(scale)), 0, format.code_max))
    return QuantParams(float(scale), zero_point, format)
