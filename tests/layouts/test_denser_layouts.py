# SPDX-License-Identifier: Apache-2.0
"""n16k4s, n16k4q, n16k4p: pack and unpack are inverse, sizes follow the formula, bytes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompile.formats import get
from qcompile.layouts import Shape
from qcompile.layouts.n16k4 import N16K4
from qcompile.layouts.n16k4p import N16K4P
from qcompile.layouts.n16k4q import N16K4Q, quint_numbers, quints_of
from qcompile.layouts.n16k4s import N16K4S, holds
from qcompile.numerics.weight import CodedWeight
from tests.layouts.test_layouts import assert_same, random_weight
from tests.runtime_ops import single_op as one
from tests.runtime_ops.single_op import sparse

PLAIN = {3: get("uint3"), 4: get("uint4")}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["int3", "uint3", "int4", "uint4", "e2m1", "balanced2"]),
    st.integers(1, 150),
    st.integers(1, 210),
    st.sampled_from([0, 32, 96]),
    st.sampled_from(["none", "f16", "f32"]),
    st.integers(0, 2**32),
)
def test_two_of_four(
    name: str, n: int, k: int, block_size: int, scale_format: str, seed: int
) -> None:
    rng, format = np.random.default_rng(seed), get(name)
    weight = sparse(
        rng,
        random_weight(
            rng, n, k, format, block_size, scale_format, with_zero_point=not format.is_signed
        ),
    )
    assert holds(weight)
    shape = Shape.of(weight)
    packed = N16K4S.pack(weight)
    chunk, total = 8 if format.bits == 4 else 32, 0
    for first in range(0, n, 16):
        for column in range(0, k, block_size or k):
            columns = -(-min(block_size or k, k - column) // chunk) * chunk
            sized = {"none": 0, "f16": 2, "f32": 4}[scale_format]
            codes = columns // 4 * 4 * format.bits + columns // 4 * 8
            total += codes + 16 * (sized + shape.has_zero_point) * (first < n)
    assert len(packed) == N16K4S.num_bytes(shape) == total
    assert_same(N16K4S.unpack(packed, shape), weight)


def test_three_of_four_are_refused() -> None:
    codes = np.zeros((20, 40), np.int16)
    codes[7, 12:15] = 1
    weight = CodedWeight(codes, None, None, get("int4"), 0, "none")
    assert not holds(weight)
    with pytest.raises(ValueError, match="more than 2 of 4 columns are not 0"):
        N16K4S.pack(weight)
    with pytest.raises(ValueError, match="binary has no code for 0"):
        N16K4S.pack(CodedWeight(codes, None, None, get("binary"), 0, "none"))


def test_bytes_of_two_of_four() -> None:
    """One output: codes 5 and 3 of columns 1 and 2, -2 of column 4, in 4 bits."""
    codes = np.array([[0, 5, 3, 0, -2, 0, 0, 0]], np.int16)
    packed = N16K4S.pack(CodedWeight(codes, None, None, get("int4"), 0, "none"))
    assert packed.shape == (48,)
    # u = code + 8 of group 0 in the low half of bytes, of group 1, -2 and the first 0, in the high
    assert packed[:2].tolist() == [13 | 6 << 4, 11 | 8 << 4]
    assert (packed[2:32] == 0x88).all()
    assert packed[32] & 15 == 0b0110 and packed[40] & 15 == 0b0011
    assert (packed[33:40] == 0x33).all() and packed[32] >> 4 == 0b0011


def test_quints_of_every_number() -> None:
    """All 5^3 groups of three codes, each one number of 7 bits."""
    every = np.indices((5,) * 3, np.uint8).reshape(3, -1)
    numbers = quint_numbers(every)
    assert len(set(numbers.tolist())) == 125 and numbers.max() < 128
    np.testing.assert_array_equal(quints_of(numbers), every)
    broken = numbers.copy()
    broken[60] += 2
    assert (quints_of(broken) != every).any()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65])
@pytest.mark.parametrize("block_size", [0, 96])
def test_five_levels(n: int, block_size: int) -> None:
    rng, format = np.random.default_rng(n), get("balanced2")
    for k in (1, 4, 95, 96, 97, 200):
        weight = random_weight(rng, n, k, format, block_size, "f16")
        codes = np.minimum(weight.codes, 4)
        weight = CodedWeight(codes, weight.scale, None, format, block_size, "f16")
        packed = N16K4Q.pack(weight)
        chunks = sum(-(-min(block_size or k, k - c) // 96) for c in range(0, k, block_size or k))
        assert len(packed) == -(-n // 16) * (chunks * 448 + 32 * weight.num_blocks)
        assert_same(N16K4Q.unpack(packed, Shape.of(weight)), weight)
    codes[0, 0] = 5
    with pytest.raises(ValueError, match="an index of balanced2 is above 4"):
        N16K4Q.pack(CodedWeight(codes, weight.scale, None, format, block_size, "f16"))


@pytest.mark.parametrize("name", ["bitmod3", "bitmod4"])
@pytest.mark.parametrize("n", [1, 16, 17, 64, 150])
def test_special_values_stand_before_their_codes(name: str, n: int) -> None:
    """The bytes of n16k4 without them, and 16 a tile ahead of every block's codes."""
    rng, format = np.random.default_rng(n), get(name)
    for k, block_size in ((7, 0), (96, 32), (130, 64)):
        weight = one.random_weight(rng, n, k, format, block_size, "f16")
        packed, shape = N16K4P.pack(weight), Shape.of(weight)
        assert weight.zero_point is not None and packed.size == N16K4P.num_bytes(shape)
        assert_same(N16K4P.unpack(packed, shape), weight)
        plain = N16K4.pack(replace(weight, format=PLAIN[format.bits], zero_point=None))
        expected, at = [], 0
        for first in range(0, n, 64):
            outputs = min(64, n - first)
            width = -(-outputs // 16) * 16
            for block in range(weight.num_blocks):
                points = np.zeros(width, np.int8)
                points[:outputs] = weight.zero_point[first : first + outputs, block]
                columns = min(weight.block_size or k, k - block * block_size)
                chunk = 8 if format.bits == 4 else 32
                size = width * (-(-columns // chunk) * chunk * format.bits // 8 + 2)
                expected += [points.view(np.uint8), plain[at : at + size]]
                at += size
        np.testing.assert_array_equal(packed, np.concatenate(expected))
        assert at == plain.size


def test_special_values_have_a_layout_of_their_own() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"^n16k4/1: bitmod4 has 4 specials$"):
        N16K4.pack(one.random_weight(rng, 4, 8, get("bitmod4"), 0, "f16"))
    with pytest.raises(ValueError, match=r"^n16k4p/1: int4 has 0 specials$"):
        N16K4P.pack(random_weight(rng, 4, 8, get("int4"), 0))
