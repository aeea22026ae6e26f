# SPDX-License-Identifier: Apache-2.0
"""Adam (Kingma and Ba 2015, algorithm 1): the direction of a step, and the moments behind it."""

import numpy as np
from numpy.typing import NDArray

Real32 = NDArray[np.float32]
_MEAN, _SQUARE = 0.9, 0.999


def adam(
    gradient: Real32, moments: tuple[Real32, Real32] | None, step: int
) -> tuple[Real32, tuple[Real32, Real32]]:
    """What to subtract, times a rate, and the moments for the next step; `step` counts from 1.

    >>> adam(np.float32([4, -2, 0]), None, 1)[0].tolist()
    [1.0, -1.0, 0.0]
    """
    zero = np.zeros_like(gradient)
    mean, square = moments or (zero, zero)
    mean = np.asarray(_MEAN * mean + (1 - _MEAN) * gradient)
    square = np.asarray(_SQUARE * square + (1 - _SQUARE) * gradient * gradient)
    size = np.sqrt(square / (1 - _SQUARE**step)) + np.float32(1e-20)
    return np.asarray(mean / (1 - _MEAN**step) / size), (mean, square)
