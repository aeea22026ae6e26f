# SPDX-License-Identifier: Apache-2.0
"""Scales of ternary weights: the optimum, and the statistics that ternary training has.

mse        the least squared error of any codes −1, 0, 1 (Ternary Weight Networks, Li and Liu 2016,
           section 2): with the m largest magnitudes as ±1 it is Σ w² − (Σ |w|)² / m, both over
           these m, and the scale their mean. One sort gives it for every m, so the paper's
           approximation (all above 0.7 E|w|) is not needed.
absmean    E|w| (BitNet b1.58, Ma et al. 2024, section 2)
absmedian  the median of |w| (BitNet b1.58 Reloaded, Nielsen and Schneider-Kamp 2024, section 3)

Codes are clip(round(w / s), −1, 1). The papers' s + 1e-5 is s here, 1 where s is 0 (N6). Both
statistics belong to training: of weights that were trained in float they lose more than the
optimum (N(0, 1): 0.19 of the energy, absmean 0.26, absmedian 0.32).
"""

import numpy as np
from numpy.typing import NDArray

STATISTICS = ("absmean", "absmedian")


def ternary_scale(blocks: NDArray[np.float32], method: str) -> NDArray[np.float64]:
    """Scales [rows, num_blocks] of blocks [rows, num_blocks, block], NaN where one is filled up.

    >>> some = np.array([[[3, -2, 1, 0.5]]], np.float32)
    >>> [ternary_scale(some, word).item() for word in ("absmean", "absmedian", "mse")]
    [1.625, 1.5, 2.5]
    """
    sizes = np.abs(blocks.astype(np.float64))
    if method == "absmean":
        scale = np.nanmean(sizes, axis=2)
    elif method == "absmedian":
        scale = np.nanmedian(sizes, axis=2)
    else:
        scale = _optimum(np.nan_to_num(sizes, copy=False))
    return np.where(scale > 0, scale, 1)


def _optimum(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the m largest with the greatest (Σ |w|)² / m; what is filled up is 0."""
    sums = np.cumsum(-np.sort(-sizes, axis=2), axis=2)
    counts = np.arange(1, sizes.shape[2] + 1)
    best = np.argmax(np.square(sums) / counts, axis=2)[..., None]
    return (np.take_along_axis(sums, best, 2) / (best + 1))[..., 0]
