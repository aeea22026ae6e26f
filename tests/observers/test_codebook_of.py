# SPDX-License-Identifier: Apache-2.0
"""Weights of one codebook times scales of blocks are coded without any error."""

import ml_dtypes
import numpy as np
import pytest

from qcompile.formats import get
from qcompile.observers.codebook_of import codebook_of, integers_of, own_codebooks
from qcompile.observers.grid_of import grid_of

F32 = np.float32


def levels_of(name: str) -> np.ndarray:
    """Ascending float32 levels with the largest magnitude 1."""
    values = np.sort(get(name).values.astype(np.float64))
    return np.unique((values / np.abs(values).max()).astype(F32))


def quantized(levels: np.ndarray, block: int, shape: tuple, seed: int = 0, kind=F32) -> np.ndarray:
    """Normal weights at the nearest level · absmax of each block, as an export writes them."""
    real = np.random.default_rng(seed).standard_normal(shape).astype(F32) * F32(0.03)
    rows = real.reshape(-1, block or shape[1])
    scale = np.abs(rows).max(1, keepdims=True).astype(kind).astype(F32)
    nearest = np.abs((rows / scale)[..., None] - levels).argmin(-1)
    return (levels[nearest] * scale).reshape(shape)


@pytest.mark.parametrize("name", ["nf4", "nf3", "posit4_1", "e3m0", "kmeans3", "lloyd2"])
@pytest.mark.parametrize("block", [0, 32, 64, 128])
def test_codebooks_are_recognised(name: str, block: int) -> None:
    weight = quantized(levels_of(name), block, (48, 512))
    found = grid_of(weight, has_blocks=True)
    assert found is not None and found.block_size == block
    assert found.format.bits <= get(name).bits
    assert np.array_equal(found.decode(), weight)
    weight[5, 3] = np.nextafter(weight[5, 3], F32(9))  # the twin: the last bit of one number
    assert codebook_of(weight, block) is None


def test_a_matrix_larger_than_the_sample() -> None:
    weight = quantized(levels_of("nf4"), 64, (384, 512))
    found = codebook_of(weight, 64)
    assert found is not None and np.array_equal(found.decode(), weight)
    weight[-1, -2] *= F32(1.5)  # behind what the levels were found in
    assert codebook_of(weight, 64) is None


def test_a_short_last_block_and_a_block_of_zeros() -> None:
    weight = quantized(levels_of("nf4"), 50, (48, 150))
    rows = np.zeros((48, 178), F32)
    rows[:, :50], rows[:, 64:114], rows[:, 128:] = (
        weight[:, :50],
        weight[:, 50:100],
        weight[:, 100:],
    )
    rows[3, 64:128] = 0
    found = codebook_of(rows, 64)
    assert found is not None and np.array_equal(found.decode(), rows)


def test_scales_stay_f16_where_they_are() -> None:
    found = grid_of(quantized(levels_of("nf4"), 64, (48, 512), kind=np.float16), has_blocks=True)
    assert found is not None and found.scale_format.startswith("f16*")


def test_blocks_with_values_of_their_own() -> None:
    """Of an export in float16: a level is rounded otherwise in every block."""
    weight = quantized(levels_of("nf4"), 64, (48, 512)).astype(np.float16).astype(F32)
    assert grid_of(weight, has_blocks=True) is None
    assert own_codebooks(weight) == 64
    assert own_codebooks(np.random.default_rng(0).standard_normal((48, 512)).astype(F32)) is None


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(1, 32), (2, 32), (4, 64), (16, 32), (8, 300)])
def test_ordinary_weights_have_none(kind: type, shape: tuple) -> None:
    for seed in range(50):
        real = np.random.default_rng(seed).standard_normal(shape).astype(kind).astype(F32)
        assert all(codebook_of(real, size) is None for size in (0, 32, 64))


def test_integers() -> None:
    assert integers_of(np.array([-0.5, 0, 3], F32)) == ([-1, 0, 6], -1)
    assert integers_of(np.array([1e-30, 1e30], F32)) is None
