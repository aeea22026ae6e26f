# SPDX-License-Identifier: Apache-2.0
"""n16k4c: pack and unpack are inverse, sizes follow the formula, bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.formats import get
from qcompile.formats.palette import PALETTES
from qcompile.layouts import LAYOUTS, Shape
from qcompile.layouts.n16k4 import N16K4, chunk_columns
from qcompile.layouts.n16k4c import N16K4C
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops.single_op import random_weight


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(PALETTES)),
    st.integers(1, 150),
    st.integers(1, 210),
    st.sampled_from([0, 32, 96]),
    st.sampled_from(["f16", "f32"]),
    st.integers(0, 2**32),
)
def test_pack_and_unpack(name: str, n: int, k: int, size: int, form: str, seed: int) -> None:
    format = PALETTES[name]
    weight = random_weight(np.random.default_rng(seed), n, k, format, size, form)
    packed, shape = N16K4C.pack(weight), Shape.of(weight)
    chunk, total = chunk_columns(format), 0
    for _ in range(0, n, 16):
        for column in range(0, k, size or k):
            columns = -(-min(size or k, k - column) // chunk) * chunk
            total += 2 * columns * format.bits
            total += 16 * 2**format.bits * {"f16": 2, "f32": 4}[form]
    assert len(packed) == N16K4C.num_bytes(shape) == total
    found = N16K4C.unpack(packed, shape)
    assert (found.block_size, found.scale_format) == (weight.block_size, weight.scale_format)
    np.testing.assert_array_equal(found.codes, weight.codes)
    np.testing.assert_array_equal(found.levels, weight.levels)


def test_bytes() -> None:
    """Two outputs of 2 bits and two blocks: levels of a block, then its codes as in n16k4/1."""
    levels = np.arange(16, dtype=np.float32).reshape(2, 2, 4) / 4
    codes = np.tile(np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.int16), 8)
    weight = CodedWeight(codes, None, None, PALETTES["palette2"], 16, "f16", levels=levels)
    packed = N16K4C.pack(weight)
    assert packed.size == 2 * (16 * 4 * 2 + 64)
    first, second = packed[:192], packed[192:]
    for block, part in enumerate((first, second)):
        held = part[:128].view(np.float16)
        assert held[:8].tolist() == levels[:, block].ravel().tolist() and not held[8:].any()
        # columns r, 4 + r, 8 + r and 12 + r of an output share a byte, and have one code here
        assert part[128:136].tolist() == [0x00, 0x55, 0xAA, 0xFF, 0xFF, 0xAA, 0x55, 0x00]
        assert not part[136:].any()


def test_codebooks_have_a_layout_of_their_own() -> None:
    rng = np.random.default_rng(0)
    weight = random_weight(rng, 4, 8, PALETTES["palette4"], 0, "f16")
    for name, layout in LAYOUTS.items():
        if name != "n16k4c/1":
            with pytest.raises(ValueError, match="palette4"):
                layout.pack(weight)
    with pytest.raises(ValueError, match=r"^n16k4c/1: int4 has no levels of f16 or f32$"):
        N16K4C.pack(random_weight(rng, 4, 8, get("int4"), 0))
    odd = random_weight(rng, 4, 8, PALETTES["palette4"], 0, "f32")
    kind = odd.format, 0, "f16"
    with pytest.raises(ValueError, match=r"^n16k4c/1: levels are no f16$"):
        N16K4C.pack(CodedWeight(odd.codes, None, None, *kind, levels=odd.levels))
    assert N16K4.name == "n16k4/1"
