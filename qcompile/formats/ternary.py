# SPDX-License-Identifier: Apache-2.0
"""Ternary: −1, 0 and +1 (Ternary Weight Networks, Li and Liu 2016, section 2); 1.6 bits packed."""

from qcompile.formats.format import Format

TERNARY = Format("ternary", 2, is_signed=True, levels=3)
