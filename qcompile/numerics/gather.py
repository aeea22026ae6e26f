# SPDX-License-Identifier: Apache-2.0
"""QGather: rows of a quantized table (N23)."""

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.weight import CodedWeight


def qgather(
    weight: CodedWeight, indices: NDArray[np.int64], scale: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Rows of the decoded weight, float32 [..., K]; indices −N … N−1.

    scale float32 [N]: of a weight that carries none, because a static product reads it, too.
    """
    if scale is None:
        return weight.decode()[indices]
    return weight.values()[indices].astype(np.float32) * scale[indices][..., None]
