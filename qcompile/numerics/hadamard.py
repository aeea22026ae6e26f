# SPDX-License-Identifier: Apache-2.0
"""Orthogonal matrices that are applied without being formed: randomised Hadamard transforms (N31).

One round of signs and a Hadamard transform leaves a vector with one large entry at entries of one
size; two rounds spread it as a random matrix does (Zandieh et al. 2025, TurboQuant; the rotations
of QuaRot, Ashkboos et al. 2024, section 4.1, have one).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

LARGEST_FACTOR = 1024  # of a size that is no power of two: its matrix is dense, [factor, factor]


def fwht(x: NDArray) -> NDArray:
    """x · H over the last axis, whose size is a power of two; H has entries ±1, H · H = n.

    Sums and differences only, so it is exact on integers.

    >>> fwht(np.array([1, 0, 0, 0])).tolist(), fwht(fwht(np.array([3, -5]))).tolist()
    ([1, 1, 1, 1], [6, -10])
    """
    n, half = x.shape[-1], 1
    if n & (n - 1) or not n:
        raise ValueError(f"a Hadamard transform of {n}: a power of two is needed")
    y = x
    while half < n:
        pairs = y.reshape(*x.shape[:-1], -1, 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack((first + second, first - second), axis=-2)
        half *= 2
    return y.reshape(x.shape)


def split_size(n: int) -> tuple[int, int]:
    """(factor, power): n = factor · power, power the largest power of two.

    >>> split_size(172), split_size(64), split_size(43)
    ((43, 4), (1, 64), (43, 1))
    """
    power = n & -n
    return n // power, power


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix R [size, size]: D1 · U · D2 · Uᵀ, with random signs D1 and D2.

    U = Q ⊗ H / √power, with size = factor · power; H of Hadamard, Q a random orthogonal matrix
    [factor, factor] whose first column is constant. keeps_mean: D1 = 1 and the first sign of D2 is
    1, so that R · 1 = 1: the mean of x R is that of x, and R commutes with LayerNorm's x − mean x.
    """

    size: int
    seed: int
    keeps_mean: bool = False

    def __post_init__(self) -> None:
        factor, _ = split_size(self.size)
        if factor > LARGEST_FACTOR:
            raise ValueError(f"size {self.size} has the odd factor {factor} > {LARGEST_FACTOR}")

    @property
    def text(self) -> str:
        """For people.

        >>> Rotation(172, 0).text, Rotation(64, 0).text
        ('hadamard 4 x orthogonal 43, 2 rounds', 'hadamard 64, 2 rounds')
        """
        factor, power = split_size(self.size)
        dense = "" if factor == 1 else f" x orthogonal {factor}"
        return f"hadamard {power}{dense}, 2 rounds"

    @cached_property
    def _parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Q, D1 and D2."""
        factor, _ = split_size(self.size)
        rng = np.random.default_rng([self.seed, self.size])
        first, second = (rng.choice([-1.0, 1.0], self.size) for _ in range(2))
        if self.keeps_mean:
            first, second[0] = np.ones(self.size), 1.0
        return orthogonal(factor, rng), first, second

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """x · R over the last axis; blocks of `size` one by one where it is longer. float64."""
        q, first, second = self._parts
        wide = x.astype(np.float64).reshape(-1, self.size)
        turned = kronecker(wide * first, q)
        return kronecker(turned * second, q.T).reshape(x.shape)

    def matrix(self) -> NDArray[np.float64]:
        """R [size, size]."""
        return self.times(np.eye(self.size))


@dataclass(frozen=True)
class Mixing:
    """U alone [size, size], which costs less where it is computed at run time: no signs.

    As two small matrices: x seen as a map [rows, columns] becomes leftᵀ · x · right.
    """

    size: int
    seed: int

    @property
    def text(self) -> str:
        """For people.

        >>> Mixing(172, 0).text
        'hadamard 4 x orthogonal 43'
        """
        return Rotation(self.size, 0).text.removesuffix(", 2 rounds")

    @cached_property
    def _dense(self) -> NDArray[np.float64]:
        factor, _ = split_size(self.size)
        return orthogonal(factor, np.random.default_rng([self.seed, self.size]))

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """x · U over the last axis, float64."""
        wide = x.astype(np.float64).reshape(-1, self.size)
        return kronecker(wide, self._dense).reshape(x.shape)

    @cached_property
    def matrices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """left [rows, rows] and right [columns, columns], as near to a square as H can be cut.

        >>> [len(m) for m in Mixing(64, 0).matrices], [len(m) for m in Mixing(172, 0).matrices]
        ([8, 8], [43, 4])
        """
        factor, power = split_size(self.size)
        columns = 1
        while columns < power and factor * power > 2 * columns * columns:
            columns *= 2
        left = kronecker(np.eye(self.size // columns), self._dense)
        return left, fwht(np.eye(columns)) / np.sqrt(columns)


def kronecker(x: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """x · (Q ⊗ H / √power) over rows [num, factor · power], Q [factor, factor].

    H is that of two sizes whose product is power, so that two products of matrices do it: three
    times as fast as sums and differences in NumPy.
    """
    factor = len(q)
    power = x.shape[1] // factor
    first = 1 << power.bit_length() // 2
    left, right = (fwht(np.eye(n)) for n in (first, power // first))
    grid = x.reshape(len(x) * factor, first, -1)
    turned = np.matmul(left, np.matmul(grid, right)).reshape(len(x), factor, power)
    turned /= np.sqrt(power)
    return (turned if factor == 1 else np.matmul(q.T, turned)).reshape(x.shape)


def orthogonal(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random orthogonal matrix [n, n] whose first column is 1 / √n."""
    drawn = rng.standard_normal((n, n))
    drawn[:, 0] = 1
    q, _ = np.linalg.qr(drawn)
    q[:, 0] = 1 / np.sqrt(n)  # without the sign that QR chose
    return q
