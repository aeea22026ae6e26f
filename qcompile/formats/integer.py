# SPDX-License-Identifier: Apache-2.0
"""Two's-complement and unsigned integers of 1 to 8 bits; the code is the value."""

from qcompile.formats.format import Format

INTEGERS = [Format(f"int{b}", b, is_signed=True) for b in range(1, 9)] + [
    Format(f"uint{b}", b, is_signed=False) for b in range(1, 9)
]
