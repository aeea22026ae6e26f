# SPDX-License-Identifier: Apache-2.0
"""The table of a kernel's channels: multiplier, exponent and bias, padded to whole tiles."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.requantize import Dyadic

MULTIPLIER, EXPONENT, BIAS = 0, 1, 2  # rows of the channel table


def channel_table(
    scale: Dyadic, bias: NDArray[np.int64] | None, channels: int, padded: int
) -> NDArray[np.int32]:
    """int32 [3, padded]: multiplier, exponent and folded bias of each channel.

    A padded channel has multiplier 0 and exponent 1, so that its shift is defined.
    """
    table = np.zeros((3, padded), np.int32)
    table[EXPONENT] = 1
    table[MULTIPLIER, :channels] = scale.multiplier
    table[EXPONENT, :channels] = scale.exponent
    if bias is not None:
        table[BIAS, :channels] = bias
    return table
