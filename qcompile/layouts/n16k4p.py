# SPDX-License-Identifier: Apache-2.0
"""n16k4p/1: n16k4/1 with special values, which stand before the codes of their block.

What one code of BitMoD means differs by block, so a product cannot begin one without these bytes;
behind the scales, where zero points lie, it waited for memory at every block (docs/kernels.md).
"""

from dataclasses import replace

from qcompile.layouts.n16k4 import DENSE, layout_of

SPECIAL = replace(DENSE, name="n16k4p/1", has_special=True)
N16K4P = layout_of(SPECIAL)
