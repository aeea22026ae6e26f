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

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio
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
        pairs = y.reshape(*x.shape[:-1], n // (2 * half), 2, half)
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

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """What takes x · R back: W · R, since R is orthogonal."""
        return self.times(weight)

    def matrix(self) -> NDArray[np.float64]:
        """R [size, size]."""
        return self.times(np.eye(self.size))


@dataclass(frozen=True)
class Hadamard:
    """D · H_n / √n of blocks of columns, which costs log2 n sums an element at run time (N42).

    Blocks of `block` columns n, a power of two, start at 0, n, 2 n, …; where n does not divide the
    size a last one ends at its end and overlaps the one before, whose results it reads, times signs
    of its own: without them it would undo a part of what was mixed. D are random signs from the
    seed. Every factor is orthogonal, so is the whole.
    """

    size: int
    block: int
    seed: int

    @classmethod
    def widest(cls, size: int, seed: int) -> "Hadamard":
        """With the largest block that fits, so that one channel reaches as many as possible.

        >>> Hadamard.widest(172, 0).block, Hadamard.widest(64, 0).firsts
        (128, (0,))
        """
        return cls(size, 1 << size.bit_length() - 1, seed)

    @property
    def text(self) -> str:
        """For people.

        >>> Hadamard(172, 128, 0).text, Hadamard(64, 64, 0).text
        ('signs, hadamard 128 at 0, 44', 'signs, hadamard 64')
        """
        places = "" if self.firsts == (0,) else f" at {', '.join(map(str, self.firsts[:2]))}"
        return f"signs, hadamard {self.block}{places}{', …' * (len(self.firsts) > 2)}"

    @property
    def firsts(self) -> tuple[int, ...]:
        """The first column of every block, in the order in which they are computed."""
        found = [*range(0, self.size - self.block + 1, self.block)]
        rest = [self.size - self.block] if self.size % self.block else []
        return (*found, *rest)

    @property
    def signs(self) -> NDArray[np.float32]:
        """D [size], then those of a block that overlaps [block]: sign k is −1 where bit k mod 64
        of word k div 64 is 1.
        """
        count = self.size + bool(self.size % self.block) * self.block
        words = random_words(self.seed, -(-count // 64))
        bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[:count]
        return 1 - 2 * bits.astype(np.float32)

    def rotate(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the kernels compute of rows [..., size], every float rounding in its order."""
        signs = self.signs
        y = x * signs[: self.size]
        factor = np.float32(1 / np.sqrt(self.block))
        with np.errstate(invalid="ignore", over="ignore"):  # infinite − infinite is NaN
            for first in self.firsts:
                columns = slice(first, first + self.block)
                if first % self.block:
                    y[..., columns] *= signs[self.size :]
                y[..., columns] = fwht(np.ascontiguousarray(y[..., columns])) * factor
        return y

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """The same over the last axis in float64, faster."""
        one, signs = np.eye(1), self.signs
        y = x.astype(np.float64).reshape(-1, self.size) * signs[: self.size]
        for first in self.firsts:
            columns = slice(first, first + self.block)
            if first % self.block:
                y[:, columns] *= signs[self.size :]
            y[:, columns] = kronecker(np.ascontiguousarray(y[:, columns]), one)
        return y.reshape(x.shape)

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """What takes x · R back: W · R, since R is orthogonal."""
        return self.times(weight)


def random_words(seed: int, count: int) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014, figure 13) from a seed: 64 random bits a word.

    >>> [hex(word) for word in random_words(0, 2).tolist()]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    with np.errstate(over="ignore"):  # modulo 2^64
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


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
