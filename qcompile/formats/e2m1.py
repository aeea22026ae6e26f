# SPDX-License-Identifier: Apache-2.0
"""E2M1, the 4-bit float of OCP Microscaling 1.0 (section 5.3.3): ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}.

The table counts in halves, so that every value is an integer. The index is the bit pattern
(sign, 2 exponent bits, 1 mantissa bit); 8 is −0, which equals 0.
"""

from qcompile.formats.format import Format

_HALVES = (0, 1, 2, 3, 4, 6, 8, 12)
E2M1 = Format(
    "e2m1", 4, is_signed=True, table=_HALVES + tuple(-v for v in _HALVES), table_scale=0.5
)
