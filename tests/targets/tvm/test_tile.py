# SPDX-License-Identifier: Apache-2.0
"""Tiles: every legal one fits a block, and its fragments read without bank conflicts."""

import pytest

from qcompile.targets.tvm.tile import FRAGMENT, STEP_WORDS, Tile, tiles


def test_there_are_many_and_each_once() -> None:
    found = tiles()
    assert len(found) == len(set(found)) > 100
    assert all(tile.is_legal() for tile in found)


@pytest.mark.parametrize(
    "tile",
    [
        Tile(4, 4, 1, 1, 4),  # 512 threads
        Tile(1, 1, 8, 8, 4),  # 128 accumulators
        Tile(4, 2, 8, 4, 32),  # over 48 KiB
    ],
)
def test_what_does_not_fit_is_not_legal(tile: Tile) -> None:
    assert not tile.is_legal()
    assert tile not in tiles()


@pytest.mark.parametrize("chunk", [4, 8, 16, 32])
def test_a_fragment_touches_every_bank_once(chunk: int) -> None:
    stride = Tile(1, 1, 1, 1, chunk).stride
    words = [row * stride + word for row in range(FRAGMENT) for word in range(STEP_WORDS)]
    assert len({word % 32 for word in words}) == 32


def test_the_chunk_without_its_skew_would_collide() -> None:
    assert len({(row * 8 + word) % 32 for row in range(8) for word in range(4)}) < 32
