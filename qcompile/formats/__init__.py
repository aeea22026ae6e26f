# SPDX-License-Identifier: Apache-2.0
"""Number formats, one file a family; FORMATS is the only list of them."""

from qcompile.errors import InputError, nearest
from qcompile.formats.balanced import BALANCED
from qcompile.formats.binary import BINARY
from qcompile.formats.e2m1 import E2M1
from qcompile.formats.format import Format
from qcompile.formats.integer import INTEGERS
from qcompile.formats.rotated import ITQ3, ITQ3_TERNARY, TURBO
from qcompile.formats.ternary import TERNARY

_ROTATED = [ITQ3, ITQ3_TERNARY, *TURBO]
FORMATS: dict[str, Format] = {
    f.name: f for f in [*INTEGERS, BINARY, TERNARY, BALANCED, E2M1, *_ROTATED]
}


def get(name: str) -> Format:
    """The format of that name.

    >>> get("int4").code_max
    7
    """
    if name not in FORMATS:
        raise InputError(f'unknown format "{name}": {nearest(name, FORMATS)}')
    return FORMATS[name]


__all__ = ["FORMATS", "Format", "get"]
