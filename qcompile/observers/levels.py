# SPDX-License-Identifier: Apache-2.0
"""kmeans<b>: the levels of a weight's own codebook, by the least weighted squared error.

Clustering of numbers on a line has an exact solution by dynamic programming (Wang and Song 2011):
with D(m, j) the least error of the first j points in m clusters,

    D(m, j) = min over i of D(m − 1, i) + error of points i … j − 1 around their mean.

A large weight is put into bins first, and the solution is that of the bins. Levels of at most 4
bits become int8 where that adds 1 % to the error or less: integer products read such tables as fast
as int4, and tables of int16 by two products.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.formats.codebook import LARGEST, from_levels
from qcompile.observers.weight_range import code_weight, squared_error
from qcompile.spec import QuantSpec

Real = NDArray[np.float64]
_BINS = 512
_SAMPLE = 1 << 20  # weights that are looked at, in whole rows
_BYTE, _BYTE_BITS, _MORE_ERROR = 127, 4, 1.01
_ROUNDS = 3  # of levels for the scales and scales for the levels


def fitted_format(weight: NDArray[np.float32], spec: QuantSpec) -> Format:
    """The spec's format with the levels of this weight [N, K]."""
    step = max(1, weight.size // _SAMPLE)
    sample = np.ascontiguousarray(weight[::step])
    start, now = spec.format, spec
    for _ in range(_ROUNDS):
        coded = code_weight(sample, now, "mse")
        assert coded.scale is not None
        scale = coded.per_column(coded.scale).astype(np.float64)
        levels = weighted_levels((sample / scale).ravel(), np.square(scale).ravel(), start.bits)
        now = _with_levels(now, levels, LARGEST)
    if start.bits > _BYTE_BITS:
        return now.format
    narrow = _with_levels(now, levels, _BYTE)
    least, found = (squared_error(sample, each) for each in (now, narrow))
    return narrow.format if found <= _MORE_ERROR * least else now.format


def _with_levels(spec: QuantSpec, levels: Real, largest: int) -> QuantSpec:
    """The spec with these levels as entries of at most `largest`."""
    table = from_levels(spec.format.name, levels, largest)
    return replace(spec, format=replace(table, has_own_table=True, table_scale=1.0))


def weighted_levels(points: Real, mass: Real, bits: int) -> Real:
    """2^bits ascending levels of the points [num] with masses [num]; the last one fills up.

    >>> weighted_levels(np.array([0.0, 1.0, 5.0, 5.5]), np.ones(4), 1).tolist()
    [0.5, 5.25]
    """
    values, members = np.unique(points, return_inverse=True)
    weights: Real = np.bincount(members, mass).astype(np.float64)
    if len(values) > _BINS:
        values, weights = _binned(values, weights)
    found = _optimal(values, weights, min(2**bits, len(values)))
    return np.r_[found, np.full(2**bits - len(found), found[-1])]


def _binned(values: Real, weights: Real) -> tuple[Real, Real]:
    """Means and masses of bins of equal width; those of the ends are the points themselves."""
    edges = np.linspace(values[0], values[-1], _BINS + 1)
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1)
    mass: Real = np.bincount(at, weights, minlength=_BINS).astype(np.float64)
    moment: Real = np.bincount(at, weights * values, minlength=_BINS).astype(np.float64)
    held = mass > 0
    return moment[held] / mass[held], mass[held]


def _optimal(values: Real, weights: Real, count: int) -> Real:
    """The means of the best `count` clusters of ascending values."""
    centre = float((values * weights).sum() / weights.sum())
    moved = values - centre
    sums = [np.r_[0, np.cumsum(weights * moved**power)] for power in range(3)]
    mass, first, second = (s[None, :] - s[:, None] for s in sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = second - first**2 / mass
    error[np.tril_indices(len(error))] = np.inf  # of points i … j − 1, i < j
    best, cuts = error[0], []
    for _ in range(count - 1):
        total = best[:, None] + error
        cuts.append(total.argmin(0))
        best = total.min(0)
    ends = [len(values)]
    for cut in reversed(cuts):
        ends.append(int(cut[ends[-1]]))
    borders = [0, *reversed(ends)]
    return np.array([first[i, j] / mass[i, j] + centre for i, j in pairwise(borders)])
