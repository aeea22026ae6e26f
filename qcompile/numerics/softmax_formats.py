# SPDX-License-Identifier: Apache-2.0
"""The weights that attention of codes gives its keys: uint8 (N30), log2_<b> and twin<b> (N43).

log2_<b> is the Log-Int-Softmax of FQ-ViT (Lin et al. 2022), twin<b> the twin uniform quantization
of PTQ4ViT (Yuan et al. 2022), as surveys of quantized vision transformers name them. A weight is
here an integer in proportion to exp(score − the largest of the row), and the output is divided by
the sum of the weights that were used, so that they sum to 1. Both papers take the probability
itself, in proportion to the sum of the row, and let what they made of it sum to what it may.
Relative to the largest the weight of a sharp row's largest is exact, a flat row of many keys does
not fall below the last level, and no sum of exponentials is needed: the maps of real models are
nearer so (docs/formats.md).

log2: −log2 is rounded as the paper's formula has it, at √2; the integer path of its program rounds
at 1.5. The last of the 2^b codes is 0, where the formula keeps the least power: keys that a mask
hides must weigh nothing. (The program has all 2^b powers, and 0 besides.)
twin: a weight is the nearest level of either range, up to one rounding to the finer step before.
The range of the coarse step is 0 … 1 and that of the fine one 2^-shift of it, as in the paper.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError, nearest

UNIFORM = "uint8"
LOG2_BITS, TWIN_BITS = range(2, 5), range(3, 9)
NAMES = (UNIFORM, *(f"log2_{b}" for b in LOG2_BITS), *(f"twin{b}" for b in TWIN_BITS))
PLANE = 128  # a weight above a byte is PLANE · high + low


@dataclass(frozen=True)
class SoftmaxFormat:
    """uint8, log2_<bits> or twin<bits>; shift: of twin<bits>, log2 of step ÷ finer step, or 0.

    >>> SoftmaxFormat.parse("log2_3").levels.tolist()
    [0, 1, 2, 4, 8, 16, 32, 64]
    >>> SoftmaxFormat.parse("twin3", shift=3).levels.tolist()
    [0, 1, 2, 3, 8, 16, 24]
    """

    name: str = UNIFORM
    bits: int = 8
    shift: int = 0

    @classmethod
    def parse(cls, name: str, shift: int = 0) -> "SoftmaxFormat":
        """The format of that name."""
        match = re.fullmatch(r"(?:log2_|twin)([2-8])", name)
        if name not in NAMES:
            raise InputError(f'unknown softmax format "{name}": {nearest(name, NAMES)}')
        return cls(name, int(match[1]) if match else 8, shift)

    @property
    def text(self) -> str:
        """For a report.

        >>> SoftmaxFormat.parse("twin4", shift=3).text
        'twin4, steps 1 and 2^3'
        """
        return f"{self.name}, steps 1 and 2^{self.shift}" if self.shift else self.name

    @property
    def is_log2(self) -> bool:
        """Whether its weights are powers of two."""
        return self.name.startswith("log2_")

    @property
    def is_twin(self) -> bool:
        """Whether it has two ranges."""
        return self.name.startswith("twin")

    @property
    def is_wide(self) -> bool:
        """Whether its weights need more than a byte."""
        return self.top > 255

    @property
    def shifts(self) -> range:
        """What shift may be: the largest weight is a byte.

        >>> SoftmaxFormat.parse("twin4").shifts
        range(1, 6)
        """
        return range(1, 10 - self.bits) if self.is_twin else range(1)

    def with_shift(self, shift: int) -> "SoftmaxFormat":
        """The format with this shift."""
        return replace(self, shift=shift)

    @cached_property
    def top(self) -> int:
        """The weight of the largest score: the largest one."""
        if self.is_log2:
            return 1 << (2**self.bits - 2)
        return self._last_fine << self.shift if self.is_twin else 255

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """int64 [up to 2^bits], rising: every weight.

        log2: 2^bits − 1 powers and 0. twin: 2^(bits − 1) multiples of 1 and as many of 2^shift, of
        which some are the same.
        """
        if self.is_log2:
            return np.append(0, 1 << np.arange(2**self.bits - 1)).astype(np.int64)
        if not self.is_twin:
            return np.arange(256)
        fine = np.arange(2 ** (self.bits - 1))
        return np.unique(np.append(fine, fine << self.shift)).astype(np.int64)

    @property
    def _last_fine(self) -> int:
        return int(2 ** (self.bits - 1)) - 1

    @cached_property
    def _first_coarse(self) -> int:
        """The first multiple of 2^shift above the finer range."""
        return ((self._last_fine >> self.shift) + 1) << self.shift

    def on_levels(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The level nearest to each integer of 0 … top, of twin; others are levels already."""
        if not self.is_twin:
            return codes
        coarse = (codes + (1 << self.shift >> 1)) >> self.shift << self.shift
        edge = (self._last_fine + self._first_coarse) // 2
        return np.where(codes > edge, coarse, np.minimum(codes, self._last_fine))

    def error_bound(
        self, exact: NDArray[np.float64], below: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """|weight − top · exact| at most, of exact = exp(−below), below ≥ 0 (N30, N43).

        The f32 roundings of the power change it by the factor 1 ± (2^-18 + 2^-22 · below).
        """
        drift = 2.0**-18 + 2.0**-22 * np.minimum(below, 2**10)
        ideal = self.top * exact
        if self.is_log2:  # a factor of at most √2, and all of it where that would be below 1
            is_zero = ideal * (1 - drift) <= np.sqrt(0.5)
            return ideal * (np.where(is_zero, 1, np.sqrt(2) - 1) + 2 * drift)
        bound = 0.5 + self.top * drift
        if not self.is_twin:
            return bound
        gap = max(1 << self.shift, self._first_coarse - self._last_fine + 1) / 2
        return bound + np.where(ideal + bound >= self._last_fine + 0.5, gap, 0)


UINT8 = SoftmaxFormat()  # of N30 and N32
