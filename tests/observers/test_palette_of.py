# SPDX-License-Identifier: Apache-2.0
"""Weights whose blocks have values of their own are coded without any error, ordinary ones not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.layouts import Shape
from qcompile.layouts.n16k4c import N16K4C
from qcompile.observers.grid_of import BLOCK_SIZES, exact_codes, grid_of, spec_of
from qcompile.observers.palette_of import palette_of
from qcompile.spec import QuantSpec
from tests.observers.test_grid_of import KINDS, ordinary

F32 = np.float32


def sizes(k: int) -> list[int]:
    """What may be tried for rows of k columns."""
    return [0, *(size for size in BLOCK_SIZES if size < k)]


def palettized(
    shape: tuple[int, int], bits: int, block: int, kind: type = F32, seed: int = 0
) -> np.ndarray:
    """2^bits normal values for every block, or every row where it is 0, all of them used."""
    rng, (n, k) = np.random.default_rng(seed), shape
    size = block or k
    levels = rng.standard_normal((n, -(-k // size), 2**bits)).astype(kind).astype(F32)
    codes = rng.integers(0, 2**bits, shape)
    for first in range(0, k - 2**bits, size):
        codes[:, first : first + 2**bits] = np.arange(2**bits)
    return levels[np.arange(n)[:, None], np.arange(k) // size, codes]


@pytest.mark.parametrize("kind", [np.float16, F32])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("shape", "block"), [((37, 300), 0), ((37, 512), 256), ((70, 700), 128), ((5, 333), 128)]
)
def test_they_are_recognised(shape: tuple, block: int, bits: int, kind: type) -> None:
    weight = palettized(shape, bits, block, kind)
    found = grid_of(weight, has_blocks=True, has_codebooks=True)
    assert found is not None and found.format.name == f"palette{bits}"
    assert (found.block_size, found.scale_format) == (block, "f16" if kind is np.float16 else "f32")
    assert np.array_equal(found.decode(), weight)
    padded = -(-len(weight) // 16) * 16 * weight.shape[1] * 4  # whole tiles of outputs in float32
    assert N16K4C.num_bytes(Shape.of(found)) < padded / 3
    spec = spec_of(found)
    assert QuantSpec.parse(str(spec)) == spec
    again = exact_codes(weight, spec)
    assert np.array_equal(again.codes, found.codes) and np.array_equal(again.levels, found.levels)
    row = np.random.default_rng(1).standard_normal(shape[1])
    weight[3] = row  # the twin: one row of other values
    assert palette_of(weight, sizes(shape[1])) is None


def test_blocks_only_where_they_are_asked_for() -> None:
    weight = palettized((20, 512), 3, 128)
    assert grid_of(weight, has_blocks=False, has_codebooks=True) is None
    assert palette_of(weight, [0]) is None


@pytest.mark.parametrize(("bits", "kind", "least"), [(4, F32, 128), (4, np.float16, 64)])
def test_levels_never_outweigh_codes(bits: int, kind: type, least: int) -> None:
    """A row of fewer columns proves nothing, and would save little."""
    assert palette_of(palettized((40, least - 4), bits, 0, kind), sizes(least - 4)) is None
    found = palette_of(palettized((40, least), bits, 0, kind), sizes(least))
    assert found is not None and found.format.bits == bits
    spread = palettized((40, 512), bits, least // 2, kind)
    assert palette_of(spread, sizes(512)) is None


def test_minus_zero_becomes_zero() -> None:
    weight = palettized((8, 256), 3, 0)
    weight[:, 5] = F32(-0.0)
    weight[:, 9] = F32(0)
    found = palette_of(weight, [0])
    assert found is not None and np.array_equal(found.decode(), weight)
    assert found.levels is not None and not np.signbit(found.levels[found.levels == 0]).any()


def test_other_grids_win() -> None:
    """Integers times a scale of every row keep one scale, and a table of few values one table."""
    rng = np.random.default_rng(3)
    whole = rng.integers(-7, 8, (16, 256))
    whole[:, 0], whole[:, 1] = 7, 1
    scaled = whole.astype(F32) * rng.uniform(0.01, 0.1, (16, 1)).astype(F32)
    few = rng.choice(rng.standard_normal(16).astype(F32), (16, 256))
    for weight, name in ((scaled, "int4"), (few, "values")):
        found = grid_of(weight, has_blocks=True, has_codebooks=True)
        assert found is not None and found.format.name == name


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(4, 700),
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
)
def test_ordinary_weights_have_none(n: int, k: int, kind: str, seed: int) -> None:
    weight = ordinary(n, k, kind, np.random.default_rng(seed))
    assert palette_of(weight, sizes(k)) is None


def test_numbers_that_are_none_are_left_alone() -> None:
    weight = palettized((8, 256), 3, 0)
    weight[2, 7] = np.inf
    assert palette_of(weight, sizes(256)) is None
    weight[2, 7] = np.nan
    assert palette_of(weight, sizes(256)) is None
