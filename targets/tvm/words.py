# SPDX-License-Identifier: Apache-2.0
"""Codes in 32-bit words, the least code in the lowest bits: four of 8 bits or eight of 4.

Channels are padded to whole words. What stands in the padding of a map is never read as a number:
the weights there are 0.
"""

import numpy as np
from numpy.typing import NDArray


def per_word(bits: int) -> int:
    """Codes in a word.

    >>> per_word(4), per_word(8)
    (8, 4)
    """
    return 32 // bits


def num_words(channels: int, bits: int) -> int:
    """Words that hold the channels of one pixel."""
    return -(-channels // per_word(bits))


def pack(codes: NDArray, bits: int) -> NDArray[np.int32]:
    """Codes [..., C], signed or not, to words int32 [..., num_words].

    >>> pack(np.array([1, 2, 15]), 4).tolist(), pack(np.array([-1, 1]), 8).tolist()
    ([3873], [511])
    """
    count = per_word(bits)
    padding = num_words(codes.shape[-1], bits) * count - codes.shape[-1]
    wide = np.pad(codes.astype(np.int64), [(0, 0)] * (codes.ndim - 1) + [(0, padding)])
    fields = (wide & ((1 << bits) - 1)).reshape(*codes.shape[:-1], -1, count)
    words = (fields << (bits * np.arange(count))).sum(axis=-1)
    return words.astype(np.uint32).view(np.int32)


def unpack(words: NDArray[np.int32], bits: int, channels: int, *, is_signed: bool) -> NDArray:
    """The inverse of pack: int16 codes [..., channels].

    >>> unpack(np.int32([3873]), 4, 3, is_signed=False).tolist()
    [1, 2, 15]
    """
    shifts = bits * np.arange(per_word(bits))
    fields = (words.view(np.uint32).astype(np.int64)[..., None] >> shifts) & ((1 << bits) - 1)
    codes = fields.reshape(*words.shape[:-1], -1)[..., :channels]
    if is_signed:
        codes = codes - ((codes >> (bits - 1)) << bits)
    return codes.astype(np.int16)


def repeat(code: int, bits: int) -> int:
    """The word of one code in every field, as a signed int.

    >>> repeat(3, 4) == 0x33333333, repeat(-1, 8)
    (True, -1)
    """
    return int(pack(np.full(per_word(bits), code), bits)[0])
