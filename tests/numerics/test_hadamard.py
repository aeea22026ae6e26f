# SPDX-License-Identifier: Apache-2.0
"""Hadamard transforms are exact on integers, and every rotation is orthogonal (N31, N42)."""

import numpy as np
import pytest
from scipy.linalg import hadamard

from qcompile.numerics.hadamard import (
    LARGEST_FACTOR,
    Hadamard,
    Rotation,
    fwht,
    kronecker,
    random_words,
    split_size,
)

SIZES = (1, 2, 3, 4, 6, 8, 43, 64, 96, 172, 256, 768)
UNIT = 2.0**-52


def bound(size: int) -> float:
    """Of an element of R Rᵀ: sums of `size` products of float64 of unit rows, in a few rounds."""
    return 8 * (size + 16) * UNIT


@pytest.mark.parametrize("size", [1, 2, 4, 32, 512])
def test_twice_the_transform_is_n_times_the_integers(size: int) -> None:
    x = np.random.default_rng(size).integers(-(2**20), 2**20, (5, size))
    assert np.array_equal(fwht(fwht(x)), size * x)


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_the_transform_is_sylvesters_matrix(size: int) -> None:
    assert np.array_equal(fwht(np.eye(size, dtype=np.int64)), hadamard(size))


def test_a_transform_needs_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="a Hadamard transform of 12: a power of two is needed"):
        fwht(np.zeros(12))


@pytest.mark.parametrize("keeps_mean", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_rotations_are_orthogonal(size: int, *, keeps_mean: bool) -> None:
    matrix = Rotation(size, 3, keeps_mean).matrix()
    gap = np.abs(matrix @ matrix.T - np.eye(size)).max()
    assert gap <= bound(size)
    matrix[0, 0] += 1e-6  # the twin
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() > bound(size)


@pytest.mark.parametrize("size", SIZES)
def test_the_mean_is_kept_where_asked(size: int) -> None:
    x = np.random.default_rng(0).standard_normal((4, size))
    limit = bound(size) * np.abs(x).sum(1)
    assert (np.abs(Rotation(size, 1, keeps_mean=True).times(x).mean(1) - x.mean(1)) <= limit).all()


@pytest.mark.parametrize("size", [4, 43, 172, 768])
def test_the_mean_moves_where_not_asked(size: int) -> None:
    x = np.random.default_rng(0).standard_normal((4, size))
    limit = bound(size) * np.abs(x).sum(1)
    assert (np.abs(Rotation(size, 1).times(x).mean(1) - x.mean(1)) > limit).any()


BLOCKS = [(2, 2), (3, 2), (5, 4), (8, 8), (43, 32), (64, 16), (70, 16), (172, 128), (768, 512)]


@pytest.mark.parametrize(("size", "block"), BLOCKS)
def test_blocks_are_orthogonal_and_dense(size: int, block: int) -> None:
    """Every channel reaches half a block at least: where blocks overlap sums may be 0."""
    matrix = Hadamard(size, block, 3).times(np.eye(size))
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() <= bound(size)
    assert (2 * (matrix != 0).sum(1) >= block).all()
    matrix[0, 0] += 1e-6  # the twin
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() > bound(size)


@pytest.mark.parametrize(("size", "block"), BLOCKS)
def test_blocks_in_float32_are_those_of_float64(size: int, block: int) -> None:
    """Each stage rounds each sum once, and each block its product with 1 / √n, itself rounded."""
    rotation = Hadamard(size, block, 5)
    x = np.random.default_rng(0).standard_normal((4, size)).astype(np.float32)
    roundings = len(rotation.firsts) * (block.bit_length() + 2)
    spread = np.sqrt(size) * np.sqrt((x.astype(np.float64) ** 2).sum(1, keepdims=True))
    limit = roundings * 2.0**-24 * spread
    gap = np.abs(rotation.rotate(x) - rotation.times(x))
    assert (gap <= limit).all()
    assert (np.abs(rotation.rotate(-x) - rotation.times(x)).max(1, keepdims=True) > limit).all()


@pytest.mark.parametrize("block", [4, 16, 64, 256])
def test_blocks_are_exact_on_integers(block: int) -> None:
    """1 / √n is a power of two here, so that nothing rounds."""
    rotation = Hadamard(2 * block + 3, block, 1)
    x = np.random.default_rng(0).integers(-1000, 1000, (3, rotation.size))
    assert np.array_equal(rotation.rotate(x.astype(np.float32)), rotation.times(x))


def test_an_overlapping_block_has_signs_of_its_own() -> None:
    signs = Hadamard(172, 128, 0).signs
    assert len(signs) == 300 and len(Hadamard(128, 128, 0).signs) == 128
    assert set(signs.tolist()) == {-1.0, 1.0}
    word = int(random_words(0, 1)[0])
    assert [s < 0 for s in signs[:64]] == [bool(word >> k & 1) for k in range(64)]


def test_two_rounds_spread_one_large_entry() -> None:
    """One round leaves 64 entries of one size; two leave a crest factor as of normal numbers."""
    turned = Rotation(64, 0).times(np.eye(64))
    crest = np.abs(turned).max(1) / np.sqrt((turned**2).mean(1))
    assert (crest > 1.5).all() and (crest < 4.5).all()
    assert len(np.unique(np.abs(turned[0]).round(12))) > 4  # one round: a single size


def test_longer_axes_are_turned_in_blocks() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 24))
    rotation = Rotation(8, 0)
    blocks = [rotation.times(np.ascontiguousarray(x[..., i : i + 8])) for i in (0, 8, 16)]
    assert np.array_equal(rotation.times(x), np.concatenate(blocks, -1))


def test_a_seed_decides_the_matrix() -> None:
    first, again, other = (Rotation(96, seed).matrix() for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_sizes_with_a_large_odd_factor_are_refused() -> None:
    size = 2 * (LARGEST_FACTOR + 1 | 1)
    assert split_size(size)[0] > LARGEST_FACTOR
    with pytest.raises(ValueError, match=f"size {size} has the odd factor"):
        Rotation(size, 0)


@pytest.mark.parametrize("power", [1, 2, 8, 32, 1024])
def test_two_products_of_matrices_are_the_transform(power: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, power))
    wanted = fwht(x) / np.sqrt(power)
    assert np.abs(kronecker(x, np.eye(1)) - wanted).max() <= bound(power) * np.abs(x).max()
    assert np.abs(kronecker(-x, np.eye(1)) - wanted).max() > bound(power) * np.abs(x).max()
