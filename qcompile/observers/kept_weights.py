# SPDX-License-Identifier: Apache-2.0
"""Which weights 2:4 sparsity keeps: two of every four neighbours along K.

SLiM (Mozaffari et al. 2025, section 3.2) takes the measure of Wanda (Sun et al. 2024, section 3),
|w_ij| ‖x_j‖₂. Deviation: SLiM takes the codes' values for w, which have ties where the float
weights, that are taken here, have none.
"""

import numpy as np
from numpy.typing import NDArray

from qcompile.memory import row_slices

KEPT, OF = 2, 4


def kept_weights(
    weight: NDArray[np.float32], sizes: NDArray[np.float32] | None = None
) -> NDArray[np.bool_]:
    """Where a weight [N, K] stays, bool [N, K]; of K % 4 last columns at most two.

    sizes: ‖x_j‖₂ of every column up to a factor, [groups, K] for groups of rows; None: all alike.
    Of equals the first ones stay.

    >>> kept_weights(np.float32([[1, -3, 2, 0, 5, 4, 6]])).astype(int)
    array([[0, 1, 1, 0, 1, 0, 1]])
    """
    n, k = weight.shape
    kept = np.empty((n, k), np.bool_)
    for rows in row_slices(n, k):
        score = np.abs(weight[rows])
        if sizes is not None:
            group = np.arange(n)[rows] // (n // len(sizes))
            score = score * sizes[group]
        fours = np.pad(score, ((0, 0), (0, -k % OF)), constant_values=-1)
        order = np.argsort(-fours.reshape(len(score), -1, OF), axis=2, kind="stable")
        found = np.zeros(order.shape, np.bool_)
        np.put_along_axis(found, order[..., :KEPT], True, 2)
        kept[rows] = found.reshape(len(score), -1)[:, :k]
    return kept
