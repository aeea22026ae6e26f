# SPDX-License-Identifier: Apache-2.0
"""Layouts: pack and unpack are inverse, sizes follow the formula, small examples byte by byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcompile.formats import FORMATS, Format, get
from qcompile.layouts import LAYOUTS, Layout, Shape
from qcompile.layouts.kc import KC
from qcompile.layouts.layout import FIELDS
from qcompile.layouts.n16k4 import N16K4, chunk_columns, trit_bytes, trits_of
from qcompile.layouts.n16k4p import N16K4P
from qcompile.layouts.rows import ROWS
from qcompile.layouts.scales import SIZES
from qcompile.numerics.weight import CodedWeight
from tests.runtime_ops.single_op import random_weight


def assert_same(left: CodedWeight, right: CodedWeight) -> None:
    """Equal in every part."""
    assert np.array_equal(left.codes, right.codes)
    assert (left.format, left.block_size) == (right.format, right.block_size)
    assert left.scale_format == right.scale_format
    for name in ("scale", "zero_point"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None)
        assert np.array_equal(() if a is None else a, () if b is None else b)


def expected_bytes(layout: Layout, shape: Shape) -> int:
    """docs/layouts.md, by loops."""
    sized = {"none": 0, "e8m0": 1, "ue4m3": 1, "f16": 2, "bf16": 2, "f32": 4}[shape.scale_format]
    sized += shape.has_point
    bits, blocks = shape.format.bits, -(-shape.K // (shape.block_size or shape.K))
    if layout is KC:
        return shape.K * -(-shape.N * bits // 8) + shape.N * sized
    if layout is ROWS:
        per_row = -(-shape.K * bits // 8) + blocks * sized
        return shape.N * per_row
    total, chunk = 0, 20 if shape.format.levels else 32 // min(FIELDS[bits])
    for first in range(0, shape.N, 64):
        tiles = -(-min(64, shape.N - first) // 16)
        for column in range(0, shape.K, shape.block_size or shape.K):
            k = min(shape.block_size or shape.K, shape.K - column)
            k = -(-k // chunk) * chunk
            codes = k // 20 * 64 if shape.format.levels else 2 * k * bits
            total += tiles * (codes + 16 * sized)
    return total


def check(layout: Layout, weight: CodedWeight) -> None:
    """Inverse, and of the size that the formula says."""
    shape = Shape.of(weight)
    packed = layout.pack(weight)
    assert packed.dtype == np.uint8
    assert packed.shape == (layout.num_bytes(shape),) == (expected_bytes(layout, shape),)
    assert_same(layout.unpack(packed, shape), weight)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([N16K4, KC, ROWS]),
    st.sampled_from(list(FORMATS.values())),
    st.integers(1, 150),
    st.integers(1, 140),
    st.sampled_from([0, 32, 64, 160]),
    st.sampled_from(list(SIZES)),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_unpack_is_the_inverse_of_pack(
    layout: Layout,
    format: Format,
    n: int,
    k: int,
    block_size: int,
    scale_format: str,
    has_zero_point: bool,
    seed: int,
) -> None:
    block_size = 0 if layout is KC else block_size
    layout = N16K4P if layout is N16K4 and format.specials else layout
    if format.levels is not None:
        block_size = block_size // 32 * 40  # 20 columns are a chunk
    rng = np.random.default_rng(seed)
    has_zero_point = has_zero_point and not format.is_table
    weight = random_weight(
        rng, n, k, format, block_size, scale_format, with_zero_point=has_zero_point
    )
    check(layout, weight)


@pytest.mark.parametrize("name", [*(f"int{bits}" for bits in range(1, 9)), "ternary"])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65])
def test_edges_of_n16k4(name: str, n: int) -> None:
    rng = np.random.default_rng(n)
    chunk = chunk_columns(get(name))
    for k in (1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk - 1):
        check(N16K4, random_weight(rng, n, k, get(name), chunk, "f16"))


def test_trits_of_every_byte() -> None:
    """All 3^5 groups of five codes; other bytes are never written."""
    every = np.indices((3,) * 5, np.uint8).reshape(5, -1)
    steps = every.reshape(1, 1, 5, -1)
    packed = trit_bytes(steps)
    assert packed.shape == (1, 1, 1, 243) and len(set(packed.ravel().tolist())) == 243
    np.testing.assert_array_equal(trits_of(packed), steps)
    broken = packed.copy()
    broken[0, 0, 0, 100] += 2
    assert (trits_of(broken) != steps).any()


def test_bytes_of_a_ternary_weight() -> None:
    """4096 columns are 205 chunks of 20, 1.6016 bits a code."""
    shape = Shape(4096, 4096, get("ternary"), 0, "f16", has_zero_point=False)
    assert N16K4.num_bytes(shape) == 256 * 205 * 64 + 4096 * 2


def test_one_changed_code_changes_the_bytes() -> None:
    rng = np.random.default_rng(0)
    weight = random_weight(rng, 20, 40, get("int5"), 32, "f16")
    for layout in (N16K4, ROWS):
        codes = weight.codes.copy()
        codes[19, 39] ^= 1
        other = CodedWeight(codes, weight.scale, None, weight.format, 32, "f16")
        different = layout.pack(weight) != layout.pack(other)
        assert np.unpackbits(layout.pack(weight) ^ layout.pack(other)).sum() == 1
        assert different.sum() == 1


def n16k4_by_rule(weight: CodedWeight) -> bytes:
    """One panel and block by docs/layouts.md, a bit slot at a time; no scales."""
    u, bits = weight.unsigned(), weight.format.bits
    n, k = u.shape
    b_min = FIELDS[bits][-1]
    chunk = 32 // b_min
    out = bytearray()
    for c in range(-(-k // chunk)):
        for tile in range(-(-n // 16)):
            shift = 0
            for width in FIELDS[bits]:
                for j in range(width // b_min):
                    vector = bytearray(64)
                    for i in range(8 // width):
                        for row in range(16):
                            for r in range(4):
                                at = (16 * tile + row, c * chunk + 4 * (j * (8 // width) + i) + r)
                                code = int(u[at]) if at[0] < n and at[1] < k else 0
                                field = (code >> shift) & (2**width - 1)
                                vector[4 * row + r] |= field << (width * i)
                    out += vector
                shift += width
    return bytes(out)


@pytest.mark.parametrize("bits", range(1, 9))
def test_n16k4_follows_the_rule(bits: int) -> None:
    rng = np.random.default_rng(bits)
    weight = random_weight(rng, 37, 45, get(f"uint{bits}"), 0, "none")
    assert N16K4.pack(weight).tobytes() == n16k4_by_rule(weight)


def row_weight(name: str, codes: list[int]) -> CodedWeight:
    """One output, no scales."""
    return CodedWeight(np.array([codes], np.int16), None, None, get(name), 0, "none")


def hex_of_row_0(packed: NDArray[np.uint8]) -> list[str]:
    """Bytes 0 … 3 (output 0) of every 64-byte vector; all other outputs are padding and hold 0."""
    vectors = packed.reshape(-1, 64)
    assert not vectors[:, 4:].any()
    return [v[:4].tobytes().hex() for v in vectors]


def test_n16k4_by_hand_8_bits() -> None:
    # chunk = 4 columns, one vector: u = code + 128.
    assert hex_of_row_0(N16K4.pack(row_weight("int8", [-127, 0, 1, 127, 5]))) == [
        "018081ff",
        "85000000",  # column 4, then padding u = 0
    ]


def test_n16k4_by_hand_4_bits() -> None:
    # chunk = 8 columns, one vector: byte r holds column r in its low half and column 4 + r in its
    # high half; u = code + 8.
    codes = [-7, -6, 0, 7, 1, 2, 3, 4]
    assert hex_of_row_0(N16K4.pack(row_weight("int4", codes))) == ["91a2b8cf"]


def test_n16k4_by_hand_3_bits() -> None:
    # chunk = 32 columns. 2 bits: two vectors of 4 slots (columns 0-15, 16-31); 1 bit: one vector
    # of 8 slots. uint3: u = code. Columns 0, 4, 8, 12, 16 hold 1, 2, 3, 4, 7.
    codes = [0] * 32
    codes[0], codes[4], codes[8], codes[12], codes[16] = 1, 2, 3, 4, 7
    # Low fields: 1, 2, 3, 0 -> 0b00_11_10_01 = 39; 3 -> 03. High fields: slots 3, 4 -> 18.
    expected = ["39000000", "03000000", "18000000"]
    assert hex_of_row_0(N16K4.pack(row_weight("uint3", codes))) == expected


def test_n16k4_by_hand_1_bit() -> None:
    # chunk = 32 columns, 8 slots: byte r, bit i = column 4 i + r. Columns 0, 5 and 31 are 1.
    codes = [0] * 32
    codes[0] = codes[5] = codes[31] = 1
    assert hex_of_row_0(N16K4.pack(row_weight("uint1", codes))) == ["01020080"]


def test_n16k4_scales_and_zero_points_by_hand() -> None:
    # Two blocks of 8 columns: each 64 bytes of codes, 16 f16 scales, 16 zero points.
    codes = np.arange(-8, 8, dtype=np.int16).reshape(1, 16)
    scale, point = np.float32([[1, 0.5]]), np.int16([[-8, 7]])
    packed = N16K4.pack(CodedWeight(codes, scale, point, get("int4"), 8, "f16")).tobytes()
    assert len(packed) == 2 * (64 + 32 + 16)
    assert packed[:4].hex() == "40516273"
    assert packed[64:68].hex() == "003c0000"  # 1.0 in f16, then padding
    assert packed[96:98].hex() == "0000"  # −8 + 8
    assert packed[112:116].hex() == "c8d9eafb"
    assert packed[176:180].hex() == "00380000"
    assert packed[208:210].hex() == "0f00"  # 7 + 8


def test_kc_by_hand() -> None:
    # 3 channels, 2 taps, int3, u = code + 4. Tap 0: 1, 4, 7 -> 1_1110_0001.
    codes = np.int16([[-3, 0], [0, 1], [3, -4]])
    weight = CodedWeight(codes, np.float32([[1], [2], [-0.5]]), None, get("int3"), 0, "f16")
    # Tap 1: 4, 5, 0 -> 0_0010_1100. Then f16 1, 2, −0.5.
    assert KC.pack(weight).tobytes().hex() == "e101" + "2c00" + "003c" + "0040" + "00b8"


def test_rows_by_hand() -> None:
    # 2 rows of 3 codes uint4 in blocks of 2: each 2 code bytes, 2 f32 scales, 2 zero points.
    codes, point = np.int16([[1, 2, 3], [15, 0, 8]]), np.int16([[4, 5], [6, 7]])
    scale = np.float32([[1, 2], [0.5, 4]])
    weight = CodedWeight(codes, scale, point, get("uint4"), 2, "f32")
    assert ROWS.pack(weight).tobytes().hex() == (
        "2103" + "0000803f" + "00000040" + "0405" + "0f08" + "0000003f" + "00008040" + "0607"
    )


def test_a_block_that_is_no_multiple_of_the_chunk_is_refused() -> None:
    weight = random_weight(np.random.default_rng(0), 4, 50, get("int3"), 48)
    message = r"^n16k4/1: block size 48 of int3 is no multiple of 32$"
    with pytest.raises(ValueError, match=message):
        N16K4.pack(weight)
    with pytest.raises(ValueError, match=message):
        N16K4.unpack(np.zeros(9, np.uint8), Shape.of(weight))


def test_one_block_may_have_any_size() -> None:
    check(N16K4, random_weight(np.random.default_rng(0), 4, 47, get("int3"), 48))


def test_kc_refuses_blocks() -> None:
    weight = random_weight(np.random.default_rng(0), 4, 9, get("int4"), 8)
    with pytest.raises(ValueError, match=r"^kc/1: one scale a channel; 2 blocks were given$"):
        KC.pack(weight)


def test_names_are_the_keys() -> None:
    assert list(LAYOUTS) == [
        "n16k4/1",
        "n16k4s/1",
        "n16k4q/1",
        "n16k4p/1",
        "n16k4c/1",
        "kc/1",
        "rows/1",
    ]
    assert [layout.name for layout in LAYOUTS.values()] == list(LAYOUTS)
