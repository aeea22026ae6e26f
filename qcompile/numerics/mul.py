# SPDX-License-Identifier: Apache-2.0
"""QMul: the product of two quantized tensors (N26)."""

import numpy as np
from numpy.typing import NDArray


def qmul(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    multiplier: float,
    a_zero_point: int,
    b_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
) -> NDArray[np.uint8]:
    """uint8 codes of a · b, broadcast (N26); multiplier is `a_scale · b_scale / y_scale`.

    >>> qmul(np.uint8([130]), np.uint8([10]), 0.5, 128, 8, 100).tolist()
    [102]
    """
    product = (a.astype(np.int32) - a_zero_point) * (b.astype(np.int32) - b_zero_point)
    code = np.rint(product.astype(np.float32) * np.float32(multiplier)).astype(np.float64)
    return np.clip(code + y_zero_point, y_min, y_max).astype(np.uint8)
