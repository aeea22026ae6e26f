# SPDX-License-Identifier: Apache-2.0
"""Words: what is packed comes back, for all codes and ragged channels."""

import numpy as np
import pytest

from qcompile.targets.tvm import words


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 7, 8, 9, 31])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_signed", [False, True])
def test_every_code_comes_back(channels: int, bits: int, is_signed: bool) -> None:
    low = -(1 << (bits - 1)) if is_signed else 0
    every = np.arange(low, low + (1 << bits))
    codes = np.stack([np.roll(every, k)[:channels] for k in range(len(every))])
    packed = words.pack(codes, bits)
    assert packed.dtype == np.int32
    assert packed.shape == (len(every), words.num_words(codes.shape[1], bits))
    back = words.unpack(packed, bits, codes.shape[1], is_signed=is_signed)
    np.testing.assert_array_equal(back, codes)


def test_the_first_code_is_lowest() -> None:
    assert words.pack(np.array([1, 0, 0, 128]), 8).view(np.uint32).item() == 0x80000001
    assert words.pack(np.array([1, 0, 0, 0, 0, 0, 0, -8]), 4).view(np.uint32).item() == 0x80000001


@pytest.mark.parametrize(("code", "bits"), [(0, 8), (255, 8), (-128, 8), (15, 4), (-8, 4)])
def test_a_repeated_code(code: int, bits: int) -> None:
    word = np.int32([words.repeat(code, bits)])
    count = words.per_word(bits)
    assert (words.unpack(word, bits, count, is_signed=code < 0) == code).all()
