# SPDX-License-Identifier: Apache-2.0
"""One scale a row, from GPTQ at several: the one whose codes give the smallest output error.

The least squared error of a weight is no guide (docs/results.md); that of the output is, after the
codes have made up for one another. Every scale that is tried is followed by the gain that fits its
codes best (fit_scales.py). Integers with a sign have one code without an opposite, −2^(b−1): here
it counts, and the scale takes the sign that gives it to the row's larger side (N3). Of 2 bits that
is one level in four. Dyadic multipliers (N12) have no sign: there it is on the negative side.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.fit_scales import fit_scales
from qcompile.passes.transform.gptq import Factor
from qcompile.passes.transform.grid import Grid, Real

NUM_SCALES = 10
_LARGEST = 1.15  # times the extreme: codes that make up for others reach farther
# Least share of the extreme, by bits: half the best scale found for Laplacian rows or less.
_LEAST = {1: 0.25, 2: 0.35, 3: 0.4, 4: 0.5, 5: 0.6, 6: 0.7, 7: 0.8}


def search_scales(
    weight: Real, nearest: CodedWeight, factor: Factor, hessian: Real, *, is_signed: bool
) -> tuple[Grid, NDArray[np.int16]]:
    """Grid and codes of rows [groups, rows, K] whose nearest codes have one scale a row.

    is_signed: whether a scale may be negative.
    """
    groups, rows, k = weight.shape
    plain = Grid.of(nearest, groups, is_full=_has_odd_code(nearest.format))
    shares = np.geomspace(_LARGEST, _LEAST[nearest.format.bits], NUM_SCALES)
    scales = _largest_scale(weight, plain, is_signed=is_signed)[:, :, None] * shares
    scales = np.copysign(store_scale(np.abs(scales), nearest.scale_format), scales)
    tried = replace(
        plain,
        scale=np.repeat(scales.reshape(groups, -1, 1), k, 2).astype(np.float32),
        zero_point=np.repeat(plain.zero_point, NUM_SCALES, 1),
    )
    wide = np.repeat(weight, NUM_SCALES, 1)
    codes = factor.codes(wide, tried)
    tried = fit_scales(wide, tried, codes, hessian, max(k, 1), nearest.scale_format)
    errors = tried.real(codes) - wide
    found = ((errors @ hessian) * errors).sum(2).reshape(groups, rows, NUM_SCALES)
    best = (np.arange(rows) * NUM_SCALES + found.argmin(2))[:, :, None]
    return (
        replace(
            plain,
            scale=np.take_along_axis(tried.scale, best, 1),
            zero_point=np.take_along_axis(tried.zero_point, best, 1),
        ),
        np.take_along_axis(codes, best, 1),
    )


def _has_odd_code(format: Format) -> bool:
    return format.quantized_range(symmetric=True)[0] > format.code_min


def _largest_scale(weight: Real, plain: Grid, *, is_signed: bool) -> Real:
    """The scale [groups, rows] that reaches a row's extreme with the largest code."""
    low, high = weight.min(2), weight.max(2)
    amax = np.maximum(np.abs(low), np.abs(high))
    amax = np.where(amax > 0, amax, 1)
    if not plain.is_full:
        return np.asarray(amax / plain.format.absmax(symmetric=True))
    sign = np.where((high > -low) & is_signed, -1.0, 1.0)
    return np.asarray(sign * amax / -plain.format.code_min)
