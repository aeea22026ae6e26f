# SPDX-License-Identifier: Apache-2.0
"""A learned rotation is orthogonal, better on its rows than its start, and taken where it helps."""

from collections.abc import Iterator

import numpy as np
import pytest

from qcompile import learn_rotation
from qcompile.learn_rotation import learn
from qcompile.numerics.hadamard import Rotation
from qcompile.numerics.learned import Learned
from qcompile.recipe import Recipe
from qcompile.rotation_error import Product, figures
from qcompile.transform_choice import Halves, Make
from qcompile.verify_normalised import check_rotated
from tests.rotation_nets import LLAMA, outlier_channel
from tests.test_rotate import DATA, rotated, weights_of
from tests.test_rotation_error import plan

SIZE, RECIPE = 16, Recipe()
UNIT = 2.0**-52


def products(size: int = SIZE, blocks: int = 1) -> Make:
    """Two of uneven rows: a few directions hold most of the power."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
    spread = np.exp(rng.standard_normal(size))[:, None] * turn
    x = np.einsum("nbi,ij->nbj", rng.standard_normal((64, blocks, size)), spread)
    rows = x.reshape(64, -1).astype(np.float32)
    weights = [rng.standard_normal((24, size * blocks)).astype(np.float32) for _ in range(2)]

    def make(part: slice) -> Iterator[Product]:
        for weight in weights:
            yield Product(rows[part].astype(np.float64), weight, None, None, plan())

    return make


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("keeps_mean", [False, True])
def test_it_stays_orthogonal_and_the_error_falls(blocks: int, *, keeps_mean: bool) -> None:
    """60 solutions and products of matrices, whose rounding adds up."""
    make, halves = products(blocks=blocks), Halves(slice(0, None, 2), slice(1, None, 2))
    start = Rotation(SIZE, 0, keeps_mean)
    found = learn(start, make, halves, RECIPE)
    assert found is not None and found.seed == 0
    limit = 60 * 8 * SIZE * UNIT
    gap = np.abs(found.matrix @ found.matrix.T - np.eye(SIZE)).max()
    assert gap <= limit < np.abs(found.matrix - start.matrix()).max()
    assert bool(np.abs(found.matrix.sum(1) - 1).max() <= SIZE * limit) == keeps_mean
    (before, _), (after, _) = figures(make(halves.chosen), [start, found], RECIPE)
    assert after < before
    x = np.random.default_rng(3).standard_normal((2, 3 * SIZE))
    wanted = np.concatenate([part @ found.matrix for part in np.split(x, 3, axis=1)], axis=1)
    assert np.abs(found.times(x) - wanted).max() <= 4 * SIZE * UNIT * np.abs(x).sum(1).max()


def test_two_matrices_are_told_apart() -> None:
    first, second = (
        Learned.of(Rotation(4, 0), 3, np.eye(4)[i]) for i in ([0, 1, 2, 3], [1, 0, 2, 3])
    )
    assert first != second and str(first) != str(second)
    assert first.text == "learned in 3 steps from hadamard 4, 2 rounds"


def test_one_that_is_too_large_is_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_rotation, "LARGEST", SIZE - 1)
    halves = Halves(slice(None), slice(None))
    assert learn(Rotation(SIZE, 0), products(), halves, RECIPE) is None


def test_a_model_with_learned_rotations() -> None:
    model = outlier_channel(LLAMA)
    found, again = (rotated(model, rotation="learned") for _ in range(2))
    row, random = found.rows[0], rotated(model).rows[0]
    assert row.is_applied and row.before == random.before
    assert row.after is not None and random.after is not None
    assert row.after.sqnr_db >= random.after.sqnr_db
    assert check_rotated(model, found.model, DATA).passed
    same = weights_of(again.model)
    assert all(np.array_equal(a, same[n]) for n, a in weights_of(found.model).items())
