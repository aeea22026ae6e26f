# SPDX-License-Identifier: Apache-2.0
"""Binary: the two values −1 and +1 (XNOR-Net, section 3.1); index 1 is +1."""

from qcompile.formats.format import Format

BINARY = Format("binary", 1, is_signed=True, table=(-1, 1))
