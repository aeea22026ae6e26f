# SPDX-License-Identifier: Apache-2.0
"""QLut: a function between quantized tensors as a table of its 256 codes (N25)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import FORMATS
from qcompile.numerics.quantize import dequantize, quantize

CODES: NDArray[np.uint8] = np.arange(256, dtype=np.uint8)


def reals_of_codes(scale: float, zero_point: int) -> NDArray[np.float32]:
    """The real numbers that the 256 codes stand for (N1)."""
    return dequantize(CODES, scale, zero_point, FORMATS["uint8"])


def table_of(
    reals: NDArray[np.float32], scale: float, zero_point: int, y_min: int = 0, y_max: int = 255
) -> NDArray[np.uint8]:
    """uint8 [256]: the code of each function value (N2, N24), clamped to y_min … y_max (N25).

    A function that does nothing requantizes:

    >>> table_of(reals_of_codes(0.5, 10), 1.0, 0)[[8, 10, 12, 15]].tolist()
    [0, 0, 1, 2]
    """
    codes = quantize(reals, scale, zero_point, FORMATS["uint8"], symmetric=False)
    return np.clip(codes, y_min, y_max).astype(np.uint8)


def qlut(x: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The table's entry of every code (N25)."""
    return table[x]
