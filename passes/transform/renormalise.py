# SPDX-License-Identifier: Apache-2.0
"""Renormalise: every output of a layer gets the mean and the deviation of the float network again.

Hubara et al. 2020 (Improving Post Training Neural Quantization, section 3.3): batch-norm tuning
estimates the statistics of a BatchNormalization again in the quantized network; where it is folded,
para-normalisation does the same by a scale and a shift of every channel, which are folded, too:

    Ŵ ← Ŵ σ(y) / σ(ŷ)      b ← E[y] − E[Ŵ x̂]      y = W x + b, ŷ = Ŵ x̂ + b̂

y and ŷ are sums of the float and of the quantized network, x̂ the input that the latter gives. So
codes stay and no node is added: the scales of a row carry its factor.

Deviations: layers take turns, so that each sees what those before it give now; a layer stays where
its error on held-out samples does not fall (reconstruct.py), since errors that are not of the
weight's size raise σ(ŷ) too; the 8-bit edges stay; the width of each layer is the preset's, not
that of an integer program.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.layer_rows import (
    LayerRows,
    Real32,
    Rebuilt,
    Setting,
    products,
)

_LEAST = 2.0**-40  # of the mean deviation: what varies less is constant, and has no factor


def renormalise(
    weight: Real32, start: CodedWeight, bias: Real32 | None, rows: LayerRows, setting: Setting
) -> Rebuilt:
    """Scales of a coded weight [N, K] and its bias [N]; without a bias the means stay."""
    made = products(rows.inputs(), start.decode(), None)
    factor = factors(_deviation(rows.y), _deviation(made))
    assert start.scale is not None
    if setting.spec.granularity == "tensor":  # one scale for all
        factor[:] = np.exp(np.log(factor).mean())
    scale = start.scale * factor[:, None].astype(np.float32)
    stored = np.copysign(store_scale(np.abs(scale), start.scale_format), scale)
    found = replace(start, scale=np.asarray(stored, np.float32))
    return Rebuilt(found, None if bias is None else rows.mean_left(found))


def factors(wanted: NDArray[np.float64], made: NDArray[np.float64]) -> NDArray[np.float64]:
    """wanted ÷ made of every output [N]; 1 where one of them is constant.

    >>> factors(np.array([2.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0])).tolist()
    [2.0, 1.0, 1.0]
    """
    least = _LEAST * max(float(wanted.mean()), np.finfo(np.float64).tiny) if wanted.size else 0.0
    varies = (wanted > least) & (made > least)
    return np.where(varies, wanted / np.where(varies, made, 1), 1.0)


def _deviation(sums: Real32) -> NDArray[np.float64]:
    """[N] of sums [groups, num, N/groups]."""
    return np.asarray(sums.std(1, dtype=np.float64).ravel())
