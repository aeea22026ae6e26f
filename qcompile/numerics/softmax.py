# SPDX-License-Identifier: Apache-2.0
"""QSoftmax: Softmax between quantized tensors (N29)."""

import numpy as np
from numpy.typing import NDArray

ONE = 2**24  # exp(0): the largest integer up to which every one is an f32
LONGEST_ROW = 2**29  # a sum of K · 2^24 is an exact f64


def exp_table(x_scale: float) -> NDArray[np.float32]:
    """float32 [256]: exp(−x_scale · d) in integers of 2^-24, for a code d below the largest (N29).

    >>> exp_table(1.0)[[0, 1, 16, 17, 18]].astype(int).tolist()
    [16777216, 6171993, 2, 1, 0]
    """
    return np.rint(ONE * np.exp(-np.float64(x_scale) * np.arange(256))).astype(np.float32)


def qsoftmax(
    x: NDArray[np.uint8],
    table: NDArray[np.float32],
    multiplier: float,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
) -> NDArray[np.uint8]:
    """uint8 [..., K] to uint8 [..., K] (N29); multiplier is `1 / y_scale`.

    >>> qsoftmax(np.uint8([3, 3, 1]), exp_table(np.log(2)), 255.0, 0).tolist()
    [113, 113, 28]
    """
    if x.size == 0:
        return x.copy()
    found = table[x.max(-1, keepdims=True) - x]
    total = found.astype(np.int64).sum(-1, keepdims=True).astype(np.float64)
    each = (np.float64(np.float32(multiplier)) / total).astype(np.float32)
    code = np.rint(found * each).astype(np.float64) + y_zero_point
    return np.clip(code, y_min, y_max).astype(np.uint8)
