# SPDX-License-Identifier: Apache-2.0
"""QPool: average and maximum over windows of quantized maps, NHWC (N19, N21, N22)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.conv import Window, patches
from qcompile.numerics.dyadic import dyadic
from qcompile.numerics.requantize import requantize_to_codes


def qpool_average(
    x: NDArray[np.uint8],
    window: Window,
    multiplier: float,
    x_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
    *,
    count_include_pad: bool = False,
    is_dyadic: bool = False,
) -> NDArray[np.uint8]:
    """uint8 [B, H, W, C] to uint8 [B, OH, OW, C] (N21, or N19).

    multiplier is `x_scale / y_scale`.
    """
    centred = x.astype(np.int32) - x_zero_point
    sums = patches(centred, window).sum(axis=3)
    ones = np.ones((1, *x.shape[1:3], 1), np.int32)
    count = patches(ones, window).sum(axis=3)
    if count_include_pad:
        count = np.full_like(count, window.kernel[0] * window.kernel[1])
    if is_dyadic:
        m, e = dyadic(float(np.float32(multiplier)) / np.maximum(count, 1))
        return requantize_to_codes(sums, m, e, y_zero_point, y_min, y_max).astype(np.uint8)
    each = np.float32(multiplier) / np.maximum(count, 1).astype(np.float32)
    code = np.rint(sums.astype(np.float32) * each).astype(np.float64) + y_zero_point
    return np.clip(code, y_min, y_max).astype(np.uint8)


def qpool_max(x: NDArray, window: Window) -> NDArray:
    """Codes uint8 or int16 [B, H, W, C] to [B, OH, OW, C] (N22)."""
    taps = patches(x.astype(np.int16), window, pad=np.iinfo(np.int16).min)
    return np.maximum(taps.max(axis=3), np.iinfo(x.dtype).min).astype(x.dtype)
