# SPDX-License-Identifier: Apache-2.0
"""The low-rank part of an error: the best of its rank where inputs have the sizes they have."""

import numpy as np
from numpy.typing import NDArray

from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.saliency_rank import LowRank, error_of, saliency_rank, sizes_of
from qcompile.spec import QuantSpec

N, K, RANK = 48, 64, 6


def problem(seed: int):
    """A weight, its codes, and inputs [num, 1, K] whose channels differ much in size."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((N, K)).astype(np.float32)
    coded = code_weight(weight, QuantSpec.parse("int3/axis(axis=0)/sym/f32"), "minmax")
    size = np.exp(1.5 * rng.standard_normal(K))
    inputs = (rng.standard_normal((400, 1, K)) * size).astype(np.float32)
    return weight, coded, inputs


def weighted(weight, coded, inner, outer, size) -> float:
    """‖(E − outer · inner) diag(x)‖², the norm of the paper."""
    left = weight.astype(np.float64) - coded.decode() - outer @ inner
    return float(np.square(left * size).sum())


def second(inputs: NDArray) -> NDArray[np.float32]:
    return np.square(inputs[:, 0]).mean(0).astype(np.float32)


def test_no_other_part_of_that_rank_is_better() -> None:
    """Eckart and Young in the weighted norm; the twin is the part of the plain norm."""
    weight, coded, inputs = problem(0)
    size = sizes_of(second(inputs))
    inner, outer = saliency_rank(weight, coded, second(inputs), RANK)
    assert inner.shape == (RANK, K)
    assert outer.shape == (N, RANK)
    best = weighted(weight, coded, inner, outer, size)
    exact = np.linalg.svd((weight - coded.decode()) * size, compute_uv=False)[RANK:]
    least = float(np.square(exact).sum())
    scale = float(np.square((weight - coded.decode()) * size).sum())
    assert abs(best - least) <= 2.0**-20 * scale  # float32 factors, 2^-24 of each term
    rng = np.random.default_rng(1)
    for power in (1e-3, 1e-2, 1e-1):
        for _ in range(10):
            other = inner + power * rng.standard_normal(inner.shape) * np.abs(inner).mean()
            moved = outer + power * rng.standard_normal(outer.shape) * np.abs(outer).mean()
            assert weighted(weight, coded, other, moved, size) > best
    plain = saliency_rank(weight, coded, np.ones(K, np.float32), RANK)
    assert weighted(weight, coded, *plain, size) > best + 2.0**-20 * scale


def test_none_then_the_plain_part_then_the_weighted_one() -> None:
    """The check of the paper, in the output error on inputs that were not seen."""
    for seed in range(4):
        weight, coded, inputs = problem(seed)
        given, held = inputs[:300], inputs[300:]
        none = error_of(weight, coded.decode().astype(np.float64), held)
        plain = LowRank(*saliency_rank(weight, coded, np.ones(K, np.float32), RANK), held)
        weighed = LowRank(*saliency_rank(weight, coded, second(given), RANK), held)
        assert weighed.left(weight, coded) < plain.left(weight, coded) < none


def test_sizes_are_above_zero() -> None:
    assert (sizes_of(np.zeros(3, np.float32)) == 1).all()
    assert (sizes_of(np.float32([np.inf, 1])) == 1).all()
    found = sizes_of(np.float32([0, 4, 16]))
    assert found.tolist() == [2.0**-10 * 2, 2, 4]
