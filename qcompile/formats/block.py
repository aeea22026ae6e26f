# SPDX-License-Identifier: Apache-2.0
"""Block formats: an element, how the scale of a block is stored, how many share it.

`FORMAT/SCALE/BLOCK`, of which the last two may be left out; BLOCK_FORMATS gives the usual ones
names. Elements of mx and nv are those of "INT v.s. FP" (Chen et al. 2025, section 3): symmetric
integers, and floats whose codes are all finite or never written. bfp<b> is the block floating point
of Microsoft's MSFP (Rouhani et al. 2020): numbers of 3, 4 or 8 bits with a sign share an exponent
of 8 bits, 16 of them, or 32 of 3 bits, which no kernel cuts finer. Deviation: MSFP's exponent is
the absmax's, which clips; here it is rounded up.
"""

from dataclasses import dataclass

from qcompile.errors import InputError
from qcompile.formats.format import Format
from qcompile.formats.scales import scale_format

AUTO = "auto"  # instead of a format: format_choice.py takes one for each weight
BLOCK_FORMATS = {
    **{f"mxint{b}": f"int{b}/e8m0/32" for b in (8, 6, 4)},
    "mxfp8": "e4m3/e8m0/32",
    "mxfp6": "e2m3/e8m0/32",
    "mxfp4": "e2m1/e8m0/32",
    "nvint4": "int4/ue4m3/16",
    "nvfp4": "e2m1/ue4m3/16",
    "bfp8": "int3/e8m0/32",
    "bfp12": "int4/e8m0/16",
    "bfp16": "int8/e8m0/16",
}


@dataclass(frozen=True)
class BlockFormat:
    """What `FORMAT/SCALE/BLOCK` says; None where it does not."""

    element: Format
    scale: str | None
    block_size: int | None


def block_format(text: str) -> BlockFormat:
    """The block format that the text says.

    >>> found = block_format("nvfp4")
    >>> str(found.element), found.scale, found.block_size
    ('e2m1', 'ue4m3', 16)
    >>> block_format("int4/bf16").block_size is None
    True
    """
    from qcompile.formats import get

    name, *rest = BLOCK_FORMATS.get(text, text).split("/")
    if len(rest) > 2:
        raise InputError(f'weight format "{text}": one is FORMAT/SCALE/BLOCK')
    if rest:
        scale_format(rest[0])
    size = rest[1] if len(rest) == 2 else None
    if size is not None and (not size.isdecimal() or int(size) < 4 or int(size) % 4):
        raise InputError(f'weight format "{text}": blocks of {size}; a multiple of 4 is needed')
    element = get(name)
    if element.has_codebook:
        raise InputError(
            f'weight format "{text}": its values are those of each block of a weight, so it is '
            f"recognised and cannot be asked for; kmeans{max(element.bits, 2)} fits levels to a "
            "weight"
        )
    return BlockFormat(element, rest[0] if rest else None, int(size) if size else None)


def stored_scales(element: Format, scale: str) -> str:
    """The scale format of an element's blocks, with what it needs to know of the element.

    f16 has few exponents: where values of the table are large, its scales are in units of a power
    of two, so that a scale is as large as for a table of 8 bits.

    >>> from qcompile.formats import get
    >>> stored_scales(get("nf4"), "f16"), stored_scales(get("e2m1"), "e8m0_floor")
    ('f16*0.00390625', 'e8m0_floor(1.5)')
    """
    largest = element.absmax(symmetric=True)
    if scale == "f16" and element.is_table and largest > 128:
        return f"f16*{2.0 ** -((largest - 1) // 128).bit_length()!r}"
    if scale == "e8m0_floor":
        return f"e8m0_floor({largest / 2 ** (largest.bit_length() - 1)!r})"
    return scale
