# SPDX-License-Identifier: Apache-2.0
"""QGather: rows of a quantized table (N23)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight


def qgather(weight: CodedWeight, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows of the decoded weight, float32 [..., K]; indices −N … N−1."""
    return weight.decode()[indices]
