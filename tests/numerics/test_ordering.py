# SPDX-License-Identifier: Apache-2.0
"""Orders and Haar's transform: they are taken back exactly; pairing against all matchings."""

from collections.abc import Iterator

import numpy as np
import pytest

from qcompile.numerics.ordering import Haar, Ordering, paired


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def energy(columns: np.ndarray, order: tuple[int, ...]) -> float:
    """Of the differences of neighbours, twice that of Haar's high band."""
    num = len(order) // 2 * 2
    pairs = columns[:, list(order[:num])]
    return float(((pairs[:, 0::2] - pairs[:, 1::2]) ** 2).sum())


def matchings(left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if not left:
        yield ()
        return
    for other in left[1:]:
        rest = tuple(i for i in left[1:] if i != other)
        for found in matchings(rest):
            yield (left[0], other, *found)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 32, 43, 172])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_is_orthogonal(size: int, levels: int) -> None:
    order = tuple(np.random.default_rng(size).permutation(size).tolist())
    matrix = Haar(order, levels).times(np.eye(size))
    bound = levels * 4 * 2.0**-52
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() <= bound
    broken = matrix.copy()
    broken[0] *= -1
    broken[0, 0] += 1
    assert np.abs(broken @ broken.T - np.eye(size)).max() > bound


@pytest.mark.parametrize("shape", [(0, 6), (1, 6), (5, 12), (2, 3, 18)])
def test_orders_are_taken_back_exactly_in_every_block(shape: tuple[int, ...]) -> None:
    order = (3, 0, 5, 1, 2, 4)
    back = tuple(np.argsort(order).tolist())
    x = normal(*shape)
    turned = Ordering(order, "").times(x)
    assert turned.shape == x.shape
    assert np.array_equal(Ordering(back, "").times(turned), x)
    assert np.array_equal(turned[..., :6], x[..., list(order)])


def test_products_stay() -> None:
    x, weight = normal(9, 24), normal(5, 24, seed=1)
    bound = 64 * 2.0**-52 * (np.abs(x) @ np.abs(weight).T)
    order = paired(weight)
    for each in (Ordering(order, ""), Haar(order, 1), Haar(order, 2)):
        y, w = each.times(x), each.readers(weight)
        assert (np.abs(y @ w.T - x @ weight.T) <= bound * 4).all()


@pytest.mark.parametrize("size", [2, 5, 6, 8, 10])
def test_pairing_is_nearly_the_best_matching_and_never_worse_than_none(size: int) -> None:
    """At least 90 % of what the best matching takes from the high band, on average (HBVLA)."""
    shares = []
    for seed in range(20):
        columns = normal(3, size, seed=seed) * np.exp(normal(size, seed=seed + 99))
        order = paired(columns)
        assert sorted(order) == list(range(size))
        given = energy(columns, tuple(range(size)))
        found = energy(columns, order)
        even = tuple(range(size))
        odd = [even] if size % 2 == 0 else [even[:i] + even[i + 1 :] for i in range(size)]
        best = min(energy(columns, m) for part in odd for m in matchings(part))
        assert best <= found * (1 + 2.0**-40) and found <= given * (1 + 2.0**-40)
        shares.append((given - found) / (given - best) if given > best else 1.0)
    assert np.mean(shares) >= 0.9


def test_pairs_are_chained_by_their_nearest_ends() -> None:
    columns = np.array([[0.0, 20, 10, 1, 21, 12]])
    assert paired(columns) == (0, 3, 2, 5, 1, 4)


def test_equal_columns_leave_no_differences() -> None:
    columns = np.repeat(normal(4, 6), 2, axis=1)[:, np.random.default_rng(0).permutation(12)]
    high = Haar(paired(columns), 1).times(columns)[:, 6:]
    assert not high.any()
