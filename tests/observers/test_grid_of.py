# SPDX-License-Identifier: Apache-2.0
"""Weights on a grid are coded without any error, ordinary ones are left alone."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.formats import get
from qcompile.observers.codebook_of import own_codebooks
from qcompile.observers.grid_of import grid_of

F32 = np.float32


def scaled(whole: np.ndarray, rng: np.random.Generator, block: int = 0) -> np.ndarray:
    """Whole numbers [N, K] times float32 scales of rows or blocks."""
    n, k = whole.shape
    scale = rng.uniform(0.003, 0.2, (n, k // block if block else 1)).astype(F32)
    return whole.astype(F32) * np.repeat(scale, block or k, 1)


GRIDS = {
    "binary": (np.array([-1, 1]), "binary"),
    "ternary": (np.array([-1, 0, 1]), "ternary"),
    "five levels": (np.arange(-2, 3), "int3"),
    "15 levels": (np.arange(-7, 8), "int4"),
    "int5": (np.arange(-15, 16), "int5"),
    "int8": (np.arange(-127, 128), "int8"),
    "e2m1": (get("e2m1").values.astype(np.int64), "e2m1"),
    "e3m0": (get("e3m0").values.astype(np.int64), "e3m0"),
}


@pytest.mark.parametrize("name", list(GRIDS))
@pytest.mark.parametrize("block", [0, 64])
def test_grids_are_recognised(name: str, block: int) -> None:
    levels, format = GRIDS[name]
    rng = np.random.default_rng(1)
    whole = rng.choice(levels, (48, 512))
    whole[:, ::64] = levels.max()  # so that no block has a finer grid of fewer values
    whole[:, 1::64] = levels.min()
    whole[:, 2::64] = 1
    weight = scaled(whole, rng, block)
    found = grid_of(weight, has_blocks=True)
    assert found is not None
    assert (found.format.name, found.block_size) == (format, block)
    assert np.array_equal(found.decode().view(np.int32) << 1, weight.view(np.int32) << 1)  # ±0
    weight[5] += rng.standard_normal(512).astype(F32)  # the twin: one row off
    assert grid_of(weight, has_blocks=True) is None


def test_a_table_of_values() -> None:
    rng = np.random.default_rng(2)
    levels = rng.standard_normal(16).astype(F32)
    weight = rng.choice(levels, (32, 64))
    found = grid_of(weight, has_blocks=True)
    assert found is not None and found.format.name == "values" and found.format.bits == 4
    assert np.array_equal(found.decode(), weight)


def test_scales_of_blocks_stay_f16_where_they_are() -> None:
    rng = np.random.default_rng(3)
    scale = rng.uniform(0.01, 0.1, (8, 4)).astype(np.float16).astype(F32)
    whole = rng.integers(-7, 8, (8, 128))
    whole[:, ::32], whole[:, 1::32] = 7, 1
    found = grid_of(whole.astype(F32) * np.repeat(scale, 32, 1), has_blocks=True)
    assert found is not None and (found.scale_format, found.block_size) == ("f16", 32)
    assert found.scale is not None and np.array_equal(found.scale, scale)


def test_a_short_last_block() -> None:
    rng = np.random.default_rng(6)
    whole = rng.integers(-7, 8, (8, 150))
    whole[:, ::64], whole[:, 1::64] = 7, 1
    scale = rng.uniform(0.01, 0.1, (8, 3)).astype(F32)
    weight = whole.astype(F32) * np.repeat(scale, 64, 1)[:, :150]
    found = grid_of(weight, has_blocks=True)
    assert found is not None and found.block_size == 64 and found.format.name == "int4"
    assert np.array_equal(found.decode(), weight)


KINDS = ("normal", "uniform", "student", "sparse", "half", "bfloat16")


def ordinary(n: int, k: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Weights [n, k] that nobody put on a grid."""
    made = {
        "normal": lambda: rng.standard_normal((n, k)),
        "uniform": lambda: rng.uniform(-1, 1, (n, k)),
        "student": lambda: rng.standard_t(3, (n, k)),
        "sparse": lambda: rng.standard_normal((n, k)) * (rng.uniform(size=(n, k)) < 0.7),
        "half": lambda: rng.standard_normal((n, k)).astype(np.float16),
        "bfloat16": lambda: rng.standard_normal((n, k)).astype(ml_dtypes.bfloat16),
    }
    return made[kind]().astype(F32)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(4, 300),
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
)
def test_ordinary_weights_are_on_no_grid(n: int, k: int, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = ordinary(n, k, kind, rng)
    weight[:, :3] = rng.standard_normal((n, 3))  # no row has two values alone
    assert grid_of(weight, has_blocks=True) is None
    assert own_codebooks(weight) is None


def test_too_few_columns_prove_nothing() -> None:
    assert grid_of(np.ones((5, 3), F32), has_blocks=False) is None
    assert grid_of(np.zeros((5, 30), F32), has_blocks=False) is None
