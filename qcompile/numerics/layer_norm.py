# SPDX-License-Identifier: Apache-2.0
"""QLayerNorm: LayerNormalization and RMSNorm between quantized tensors (N28)."""

import numpy as np
from numpy.typing import NDArray

LONGEST_ROW = 2**23  # K · 255 in int32


def qlayer_norm(
    x: NDArray[np.uint8],
    gamma: NDArray[np.float32],
    beta: NDArray[np.float32],
    epsilon: float,
    x_zero_point: int,
    y_zero_point: int,
    y_min: int = 0,
    y_max: int = 255,
    *,
    is_centred: bool,
) -> NDArray[np.uint8]:
    """uint8 [..., K] to uint8 [..., K] (N28); gamma and beta [K] are divided by y_scale.

    epsilon is `epsilon / x_scale²`; RMSNorm (not centred) alone has a use for x_zero_point.

    >>> one = np.ones(4, np.float32)
    >>> qlayer_norm(np.uint8([1, 3, 5, 7]), 10 * one, 0 * one, 0.0, 0, 100, is_centred=True)
    array([ 87,  96, 104, 113], dtype=uint8)
    """
    k = x.shape[-1]
    codes = x.astype(np.int64)
    total = codes.sum(-1, keepdims=True)
    squares = (codes * codes).sum(-1, keepdims=True)
    if is_centred:
        centre, spread = total, k * squares - total * total
    else:
        centre = np.full_like(total, k * x_zero_point)
        spread = k * (squares - 2 * x_zero_point * total + k * x_zero_point * x_zero_point)
    root = np.sqrt(spread.astype(np.float64) + np.float64(np.float32(epsilon)) * float(k * k))
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0).astype(np.float32)
    normal = (k * codes - centre).astype(np.float32) * inverse
    code = np.rint(normal * gamma + beta).astype(np.float64) + y_zero_point
    return np.clip(code, y_min, y_max).astype(np.uint8)
