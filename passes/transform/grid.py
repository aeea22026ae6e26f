# SPDX-License-Identifier: Apache-2.0
"""Grid: the real values that the codes of rows of a weight can have.

Rows come as [groups, rows, K]: a grouped Conv has second moments of its own for every group.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format
from qcompile.numerics.quantize import quantize, unscaled
from qcompile.numerics.weight import CodedWeight

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """scale and zero point of every column, [groups, rows, K]; is_full: the least code counts, too.

    With a negative scale the least code, which has no opposite, is the largest value (N3). kept, of
    that shape: where codes of a sparse weight are free; elsewhere they are those of 0.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int16]
    format: Format
    is_full: bool
    kept: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, weight: CodedWeight, groups: int, *, is_full: bool) -> "Grid":
        """Of a weight [N, K] whose rows belong to the groups in turn."""
        assert weight.scale is not None
        shape = (groups, weight.shape[0] // groups, weight.shape[1])
        scale = weight.per_column(weight.scale).reshape(shape)
        kept = None if weight.kept is None else weight.kept.reshape(shape)
        if weight.zero_point is None:
            return cls(scale, np.zeros(shape, np.int16), weight.format, is_full, kept)
        point = weight.per_column(weight.zero_point).reshape(shape)
        return cls(scale, point, weight.format, is_full, kept)

    def at(self, column: int) -> "Grid":
        """Of one column, [groups, rows]."""
        scale, point = self.scale[..., column], self.zero_point[..., column]
        kept = None if self.kept is None else self.kept[..., column]
        return replace(self, scale=scale, zero_point=point, kept=kept)

    def ordered(self, order: NDArray[np.int64]) -> "Grid":
        """With the columns of group g in the order[g]."""
        at = order[:, None, :]
        scale = np.take_along_axis(self.scale, at, 2)
        kept = None if self.kept is None else np.take_along_axis(self.kept, at, 2)
        point = np.take_along_axis(self.zero_point, at, 2)
        return replace(self, scale=scale, zero_point=point, kept=kept)

    def codes(self, real: Real) -> NDArray[np.int16]:
        """The nearest codes of reals of the scale's shape (N2, N3)."""
        narrow = real.astype(np.float32)
        point, is_symmetric = self.zero_point, not self.is_full
        codes = quantize(narrow, self.scale, point, self.format, symmetric=is_symmetric)
        if self.kept is None:
            return codes
        return np.where(self.kept, codes, point + np.int16(self.format.zero_code or 0))

    def units(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """What codes are worth in units of the scale, exactly."""
        return unscaled(codes, self.zero_point, self.format)

    def real(self, codes: NDArray[np.int16]) -> Real:
        """What codes are worth: one float32 product, as kernels have it (N1)."""
        return np.asarray((self.units(codes) * self.scale).astype(np.float64))
