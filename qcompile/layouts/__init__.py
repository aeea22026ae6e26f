# SPDX-License-Identifier: Apache-2.0
"""Packed byte layouts, one file each; LAYOUTS is the only list of them."""

from qcompile.layouts.kc import KC
from qcompile.layouts.layout import Layout, Shape
from qcompile.layouts.n16k4 import N16K4
from qcompile.layouts.n16k4c import N16K4C
from qcompile.layouts.n16k4p import N16K4P
from qcompile.layouts.n16k4q import N16K4Q
from qcompile.layouts.n16k4s import N16K4S
from qcompile.layouts.rows import ROWS

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in [N16K4, N16K4S, N16K4Q, N16K4P, N16K4C, KC, ROWS]
}

__all__ = ["LAYOUTS", "Layout", "Shape"]
