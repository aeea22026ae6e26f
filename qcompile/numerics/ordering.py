# SPDX-License-Identifier: Apache-2.0
"""Orders of channels, and Haar's transform of channels in pairs: what blocks of weights gain from.

Channels that are alike in size should share a block of one scale: a large one then takes the codes
of large ones alone (K-sort, Trukhanov and Soloveychik 2024, "Accurate block quantization in LLMs
with outliers": channels of K by the norms of the rows of its weight). There the blocks
are those of cached keys; here they are those of weights along their inputs.

HBVLA pairs the nearest columns of a weight, chains the pairs by their nearest ends, and quantizes
sums and differences (Haar) of each pair: alike columns leave small differences.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST_CHAIN = 1024  # columns whose distances are all compared


@dataclass(frozen=True)
class Ordering:
    """order [block]: which channel comes where; longer axes block by block. rule: for people."""

    order: tuple[int, ...]
    rule: str

    @property
    def text(self) -> str:
        """For people.

        >>> Ordering((1, 0), "weight norm").text
        'order by weight norm'
        """
        return f"order by {self.rule}"

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """The channels of the last axis in their order, float64.

        >>> Ordering((1, 0), "").times(np.array([1.0, 2, 3, 4]))
        array([2., 1., 4., 3.])
        """
        wide = x.astype(np.float64).reshape(-1, len(self.order))
        return np.ascontiguousarray(wide[:, list(self.order)]).reshape(x.shape)

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """The inputs of a weight in the same order."""
        return self.times(weight)


@dataclass(frozen=True)
class Haar:
    """Channels in their order, then `levels` of Haar: sums and differences of neighbours ÷ √2.

    The sums go to the front, where the next level takes them; an odd channel stays between. It is
    orthogonal, so readers take the same matrix: x R (W R)ᵀ = x Wᵀ.
    """

    order: tuple[int, ...]
    levels: int

    @property
    def text(self) -> str:
        """For people."""
        return f"haar, {self.levels} levels of paired channels"

    def times(self, x: NDArray) -> NDArray[np.float64]:
        """x R over the last axis, float64.

        >>> Haar((0, 2, 1, 3), 1).times(np.array([1.0, 5, 1, 3])).round(3)
        array([1.414, 5.657, 0.   , 1.414])
        """
        wide = Ordering(self.order, "").times(x).reshape(-1, len(self.order))
        size = len(self.order)
        for _ in range(self.levels):
            half = size // 2
            even, odd = wide[:, 0 : 2 * half : 2].copy(), wide[:, 1 : 2 * half : 2].copy()
            wide[:, half : size - half] = wide[:, 2 * half : size]
            wide[:, :half] = (even + odd) / np.sqrt(2)
            wide[:, size - half : size] = (even - odd) / np.sqrt(2)
            size = half
        return wide.reshape(x.shape)

    def readers(self, weight: NDArray) -> NDArray[np.float64]:
        """W R."""
        return self.times(weight)


def paired(columns: NDArray[np.float64]) -> tuple[int, ...]:
    """The order of HBVLA for columns [rows, num]: near ones in pairs, pairs chained by their ends.

    Never more energy in the differences than the given order has: else that one stays.

    >>> paired(np.array([[0.0, 9, 1, 8]]))
    (0, 2, 3, 1)
    """
    num = columns.shape[1]
    power = (columns**2).sum(0)
    far = np.maximum(power[:, None] + power - 2 * (columns.T @ columns), 0)
    pairs, left = _pairs(far)
    order = _chain(far, _swapped(far, pairs)) + left
    return tuple(order) if _between(far, order) <= _between(far, range(num)) else tuple(range(num))


def _between(far: NDArray, order: range | list[int]) -> float:
    """Twice the energy of the differences of the first level."""
    places = list(order)[: len(order) // 2 * 2]
    return float(far[places[0::2], places[1::2]].sum())


def _pairs(far: NDArray) -> tuple[list[tuple[int, int]], list[int]]:
    """The nearest two that are left, again and again; and the one that is left at last."""
    rows, columns = np.triu_indices(len(far), 1)
    is_free = np.ones(len(far), np.bool_)
    found = []
    for at in np.argsort(far[rows, columns], kind="stable"):
        one, other = int(rows[at]), int(columns[at])
        if is_free[one] and is_free[other]:
            is_free[[one, other]] = False
            found.append((one, other))
    return found, np.flatnonzero(is_free).tolist()


def _swapped(far: NDArray, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Two pairs [num, 2] change partners, the best two first, while that lowers the energy.

    HBVLA has no such step; the nearest pairs alone leave far ones for the end.
    """
    found = np.array(pairs, np.int64).reshape(-1, 2)
    for _ in range(len(found)):
        a, b = found.T
        own = far[a, b]
        own = own[:, None] + own
        gains = own - np.stack([far[a][:, a] + far[b][:, b], far[a][:, b] + far[b][:, a]])
        gains[:, np.arange(len(a)), np.arange(len(a))] = 0
        way, one, other = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[way, one, other] <= 2.0**-40 * own[one, other]:
            break
        first, second = found[one].copy(), found[other].copy()
        last = second[way]
        found[one], found[other] = (first[0], last), (first[1], second[1 - way])
    return found


def _chain(far: NDArray, pairs: NDArray[np.int64]) -> list[int]:
    """One pair after the other: the next has the end that is nearest to the last end."""
    if not len(pairs):
        return []
    order, left = [int(i) for i in pairs[0]], pairs[1:]
    while len(left):
        ends = far[order[-1]][left]
        row, side = np.unravel_index(int(ends.argmin()), ends.shape)
        order += [int(left[row, side]), int(left[row, 1 - side])]
        left = np.delete(left, row, 0)
    return order
