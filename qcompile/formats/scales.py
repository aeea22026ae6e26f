# SPDX-License-Identifier: Apache-2.0
"""How scales are stored: SCALE_FORMATS is the list of them.

    f32 f16 bf16
    e8m0          a power of two, rounded up, so that nothing is clipped ("INT v.s. FP", section 3)
    e8m0_floor    OCP Microscaling 1.0, section 6.3: 2^(⌊log2 absmax⌋ − ⌊log2 Qmax⌋), clips
    ue4m3         a positive E4M3 in units of one float32 of the whole tensor (NVFP4)

Text with a unit, `f16*0.00390625`, stores scales in that unit: what a stored scale is worth is the
float32 product with it. e8m0_floor has the mantissa of Qmax in its text, `e8m0_floor(1.5)`, as the
rule asks for the largest value and not for the scale.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcompile.errors import InputError, nearest

SCALE_FORMATS = ("f32", "f16", "bf16", "e8m0", "e8m0_floor", "ue4m3")
# The least and the largest scale that is stored. Below the least of f32 and bf16 kernels may flush.
_ENDS = {
    "f32": (2.0**-126, float(np.finfo(np.float32).max)),
    "f16": (2.0**-14, 65504.0),
    "bf16": (2.0**-126, 255 * 2.0**120),
    "e8m0": (2.0**-126, 2.0**127),
    "e8m0_floor": (2.0**-126, 2.0**127),
    "ue4m3": (2.0**-9, 448.0),
}
_TEXT = re.compile(r"(?P<name>[a-z]\w*)(\((?P<mantissa>[\d.]+)\))?(\*(?P<unit>[-+.\de]+))?")


@dataclass(frozen=True)
class ScaleFormat:
    """name: how it is stored; unit: what 1 is worth; mantissa: of Qmax, for e8m0_floor."""

    name: str
    unit: np.float32
    mantissa: float

    @property
    def stored_as(self) -> str:
        """The name that the file has: both ways of rounding to a power of two are one there."""
        return "e8m0" if self.name == "e8m0_floor" else self.name

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest scale."""
        low, high = _ENDS[self.name]
        unit = float(self.unit)
        return max(low * unit, 2.0**-126), min(high * unit, float(np.finfo(np.float32).max))

    def rounded(self, scale: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scales that are stored for these, positive ones, in units."""
        low, high = _ENDS[self.name]
        scale = np.clip(scale, np.float32(low), np.float32(high))
        if self.name == "f16":
            return scale.astype(np.float16).astype(np.float32)
        if self.name == "bf16":
            return _nearest_bf16(scale)
        if self.name == "e8m0":
            mantissa, exponent = np.frexp(scale)  # in [0.5, 1): 0.5 is a power of two itself
            return np.ldexp(np.float32(1), exponent - (mantissa == 0.5)).astype(np.float32)
        if self.name == "e8m0_floor":
            mantissa, exponent = np.frexp(scale.astype(np.float64) * self.mantissa)
            return np.clip(np.ldexp(1.0, exponent - 1), low, high).astype(np.float32)
        if self.name == "ue4m3":
            return _nearest_e4m3(scale)
        return scale


@lru_cache(maxsize=4096)
def scale_format(text: str) -> ScaleFormat:
    """The scale format that the text says.

    >>> scale_format("f16*0.25").unit, scale_format("e8m0_floor(1.5)").stored_as
    (np.float32(0.25), 'e8m0')
    """
    match = _TEXT.fullmatch(text)
    if match is None or match["name"] not in SCALE_FORMATS:
        name = text if match is None else match["name"]
        raise InputError(f'unknown scale format "{text}": {nearest(name, SCALE_FORMATS)}')
    unit = np.float32(match["unit"] or 1)
    if not (np.isfinite(unit) and unit >= np.float32(2.0**-126)):
        raise InputError(f'scale format "{text}": the unit must be a positive, normal float32')
    return ScaleFormat(match["name"], unit, float(match["mantissa"] or 1))


def with_unit(name: str, unit: float) -> str:
    """The text of a scale format in a unit.

    >>> with_unit("f16", 0.25), with_unit("e8m0", 1.0)
    ('f16*0.25', 'e8m0')
    """
    return name if unit == 1 else f"{name}*{float(np.float32(unit))!r}"


def _nearest_bf16(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The upper half of a float32; ties to even."""
    bits = scale.view(np.uint32) if scale.flags.c_contiguous else scale.copy().view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def _nearest_e4m3(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """A positive E4M3; ties to even. A step is 2^(exponent − 3), at least 2^-9."""
    step = np.ldexp(np.float32(1), np.maximum(np.frexp(scale)[1] - 1, -6) - 3)
    return np.clip(np.rint(scale / step) * step, 2.0**-9, 448).astype(np.float32)
