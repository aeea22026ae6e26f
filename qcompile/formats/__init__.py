# SPDX-License-Identifier: Apache-2.0
"""Number formats, one file a family; FAMILIES is the only list of them.

FORMATS are the formats with names; a family has more of them, such as every e<E>m<M>.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from qcompile.errors import InputError, nearest
from qcompile.formats import codebook, minifloat, posit
from qcompile.formats.balanced import BALANCED
from qcompile.formats.binary import BINARY
from qcompile.formats.bitmod import BITMOD
from qcompile.formats.format import INT16, Format
from qcompile.formats.integer import INTEGERS
from qcompile.formats.palette import PALETTES
from qcompile.formats.rotated import ROTATED
from qcompile.formats.scales import SCALE_FORMATS, scale_format
from qcompile.formats.ternary import TERNARY

_PLAIN = [*INTEGERS, BINARY, TERNARY, BALANCED, *BITMOD, minifloat.RF8]
_FIXED = {f.name: f for f in [*_PLAIN, *ROTATED]}
# (a pattern of names, the format of its groups)
FAMILIES: tuple[tuple[str, Callable[..., Format]], ...] = (
    (r"e(\d)m(\d)", minifloat.minifloat),
    (r"fp([3-8])", minifloat.searched),
    (r"posit(\d+)_(\d)", posit.posit),
    (r"nf([34])", codebook.nf),
    (r"lloyd([1-8])", codebook.lloyd),
    (r"gquant([1-8])", codebook.gquant),
    (r"kmeans([2-8])", codebook.kmeans),
)
DECODED_ONLY = posit.DECODED_ONLY  # in the listing, and refused with the reason
IROOTS = "iroots2"  # ±1 and ±i: binary of complex weights that are turned (complex_roots.py)
ALIASES = {"int2b": "balanced2", IROOTS: "binary"}
_OWN_TABLE = re.compile(r"([a-z]\w*)\[([-+\d, ]+)\]")


class _Listed(Mapping[str, Format]):
    """The formats with names; one is made when it is asked for."""

    names = (
        *(*_FIXED, *minifloat.NAMES, *minifloat.SEARCHED),
        *(*posit.NAMES, *codebook.NAMES, *codebook.FITTED),
    )

    def __getitem__(self, name: str) -> Format:
        if name not in self.names:
            raise KeyError(name)
        return get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


FORMATS: Mapping[str, Format] = _Listed()


@lru_cache(maxsize=4096)
def get(name: str) -> Format:
    """The format of that name.

    >>> get("int4").code_max, get("e3m2").bits, get("mine[-3,-1,1,3]").bits
    (7, 6, 2)
    """
    name = ALIASES.get(name, name)
    if name in _FIXED:
        return _FIXED[name]
    if name in PALETTES:  # not in FORMATS: they are recognised, and cannot be asked for
        return PALETTES[name]
    if own := _OWN_TABLE.fullmatch(name):
        return codebook.own_table(own[1], own[2].replace(" ", ""))
    if name.endswith(INT16):
        return get(name.removesuffix(INT16)).in_int16()
    if name in DECODED_ONLY:
        raise InputError(f'format "{name}" has no kernel: {DECODED_ONLY[name].reason}')
    for pattern, make in FAMILIES:
        if found := re.fullmatch(pattern, name):
            sizes = [int(size) for size in found.groups()]
            _check_bits(name, 1 + sum(sizes) if make is minifloat.minifloat else sizes[0])
            return make(*sizes)
    raise InputError(f'unknown format "{name}": {nearest(name, FORMATS)}')


def is_iroots(asked: str | None) -> bool:
    """Whether a weight format that is asked for is iroots2, with any scales and blocks.

    >>> is_iroots("iroots2"), is_iroots("iroots2/f16/64"), is_iroots("binary")
    (True, True, False)
    """
    return asked is not None and asked.split("/")[0] == IROOTS


def _check_bits(name: str, bits: int) -> None:
    least = 2 if name.startswith("posit") else 1
    if not least <= bits <= 8 or re.fullmatch(r"e0.*|e1m0", name):
        raise InputError(
            f'format "{name}" has {bits} bits: kernels run formats of at most 8 bits, a float has '
            "at least 1 bit of exponent and 3 in all, a posit 2; see `qcompile formats`"
        )


__all__ = [
    "DECODED_ONLY",
    "FAMILIES",
    "FORMATS",
    "INT16",
    "IROOTS",
    "PALETTES",
    "SCALE_FORMATS",
    "Format",
    "get",
    "is_iroots",
    "scale_format",
]
