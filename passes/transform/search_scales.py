# SPDX-License-Identifier: Apache-2.0
"""One scale a row, from GPTQ at several: the one whose codes give the smallest output error.

The least squared error of a weight is no guide (docs/results.md); that of the output is, after the
codes have made up for one another. Every scale that is tried is followed by the gain that fits its
codes best (fit_scales.py). Integers with a sign have one code without an opposite, −2^(b−1): here
it counts, and the scale takes the sign that gives it to the row's larger side (N3). Of 2 bits that
is one level in four. Dyadic multipliers (N12) have no sign: there it is on the negative side.

Shares of the scale that reaches the row's extreme are tried: all of them on a sample of rows, and
of a larger weight the best few of these on every row.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.weight_range import growths
from qcompile.passes.transform.fit_scales import fit_scales
from qcompile.passes.transform.gptq import Factor
from qcompile.passes.transform.grid import Grid, Real

_NUM_SHARES, _NUM_LIKELY = 10, 3
_SAMPLE = 64  # rows
_LARGEST = 1.15  # codes that make up for others reach beyond the extreme
_LEAST = {1: 0.25, 2: 0.35, 3: 0.4, 4: 0.5, 5: 0.6, 6: 0.7, 7: 0.8}  # by bits


@dataclass(frozen=True)
class Search:
    """What all rows of a weight share: second moments [groups, K, K], their factor, the shares.

    is_signed: whether a scale may be negative.
    """

    factor: Factor
    hessian: Real
    is_signed: bool
    shares: Real

    @classmethod
    def of(
        cls,
        weight: NDArray[np.float32],
        nearest: CodedWeight,
        factor: Factor,
        hessian: Real,
        *,
        is_signed: bool,
    ) -> "Search":
        """Of a weight [N, K]: of many rows with the likely shares."""
        most = max((_LARGEST, *growths(nearest.format)))
        shares = np.geomspace(most, _LEAST[nearest.format.bits], _NUM_SHARES)
        search = cls(factor, hessian, is_signed, shares)
        groups, n = len(hessian), len(weight)
        if n <= 2 * _SAMPLE:
            return search
        most = max(_SAMPLE // groups, 1)
        each = np.unique(np.linspace(0, n // groups - 1, most).astype(np.int64))
        sample = (np.arange(groups)[:, None] * (n // groups) + each).ravel()
        part = weight[sample].reshape(groups, -1, weight.shape[1]).astype(np.float64)
        _, _, errors = search.tried(part, nearest.rows(sample))
        least = np.maximum(errors.min(2, keepdims=True), np.finfo(np.float64).tiny)
        loss = (errors / least).sum((0, 1))  # rows count alike
        return replace(search, shares=shares[np.sort(np.argsort(loss)[:_NUM_LIKELY])])

    def tried(self, weight: Real, nearest: CodedWeight) -> tuple[Grid, NDArray[np.int16], Real]:
        """Grid and codes [groups, rows · shares, K], errors [groups, rows, shares]."""
        groups, rows, k = weight.shape
        count = len(self.shares)
        plain = Grid.of(nearest, groups, is_full=_has_odd_code(nearest.format))
        scales = _largest_scale(weight, plain, is_signed=self.is_signed)[:, :, None] * self.shares
        scales = np.copysign(store_scale(np.abs(scales), nearest.scale_format), scales)
        grid = replace(
            plain,
            scale=np.repeat(scales.reshape(groups, -1, 1), k, 2).astype(np.float32),
            zero_point=np.repeat(plain.zero_point, count, 1),
            kept=None if plain.kept is None else np.repeat(plain.kept, count, 1),
        )
        wide = np.repeat(weight, count, 1)
        codes = self.factor.codes(wide, grid)
        grid = fit_scales(wide, grid, codes, self.hessian, max(k, 1), nearest.scale_format)
        left = grid.real(codes) - wide
        errors = ((left @ self.hessian) * left).sum(2)
        return grid, codes, errors.reshape(groups, rows, count)

    def best(self, weight: Real, nearest: CodedWeight) -> tuple[Grid, NDArray[np.int16]]:
        """Grid and codes of rows [groups, rows, K] whose nearest codes have one scale a row."""
        grid, codes, errors = self.tried(weight, nearest)
        kept = None if nearest.kept is None else nearest.kept.reshape(weight.shape)
        first = np.arange(weight.shape[1]) * len(self.shares)
        chosen = (first + errors.argmin(2))[:, :, None]
        scale = np.take_along_axis(grid.scale, chosen, 1)
        point = np.take_along_axis(grid.zero_point, chosen, 1)
        found = replace(grid, scale=scale, zero_point=point, kept=kept)
        return found, np.take_along_axis(codes, chosen, 1)


def _has_odd_code(format: Format) -> bool:
    return format.quantized_range(symmetric=True)[0] > format.code_min


def _largest_scale(weight: Real, plain: Grid, *, is_signed: bool) -> Real:
    """The scale [groups, rows] that reaches a row's extreme with the largest code."""
    low, high = weight.min(2), weight.max(2)
    amax = np.maximum(np.abs(low), np.abs(high))
    amax = np.where(amax > 0, amax, 1)
    if not plain.is_full:
        largest = np.full(amax.shape, plain.format.absmax(symmetric=True))
        if plain.format.specials:
            largest = np.maximum(largest, np.abs(plain.zero_point).max(2))
        return np.asarray(amax / largest)
    sign = np.where((high > -low) & is_signed, -1.0, 1.0)
    return np.asarray(sign * amax / -plain.format.code_min)
