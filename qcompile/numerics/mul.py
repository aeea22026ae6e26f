# SPDX-License-Identifier: Apache-2.0
"""QMul: the product of two quantized tensors (N12, N26)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.dyadic import dyadic
from qcompile.numerics.requantize import requantize_dyadic


def qmul(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    multiplier: float,
    a_zero_point: int,
    b_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
    *,
    is_dyadic: bool = False,
) -> NDArray[np.uint8]:
    """uint8 codes of a · b, broadcast (N26, or N12); multiplier is `a_scale · b_scale / y_scale`.

    >>> qmul(np.uint8([130]), np.uint8([10]), 0.5, 128, 8, 100).tolist()
    [102]
    """
    product = (a.astype(np.int32) - a_zero_point) * (b.astype(np.int32) - b_zero_point)
    if is_dyadic:
        scaled = requantize_dyadic(product, *dyadic(np.float32(multiplier))) + y_zero_point
        return np.clip(scaled, y_min, y_max).astype(np.uint8)
    code = np.rint(product.astype(np.float32) * np.float32(multiplier)).astype(np.float64)
    return np.clip(code + y_zero_point, y_min, y_max).astype(np.uint8)
