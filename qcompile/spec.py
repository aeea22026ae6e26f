# SPDX-License-Identifier: Apache-2.0
"""QuantSpec: what is asked of one tensor, in one line of text.

    int4/block(axis=1,size=32)/sym/f16      uint8/tensor/asym/f32      int8/row/sym/f32

Granularities: `tensor`, `axis(axis=A)` (one scale per index of axis A), `block(axis=A,size=S)` (one
per S neighbours along A), and the dynamic ones, whose scale is found at run time: `row` (per row of
the last axis) and `sample` (per index of axis 0).
"""

import re
from dataclasses import dataclass

import numpy as np

import qcompile.formats as formats
from qcompile.errors import InputError
from qcompile.formats import Format, scale_format

GRANULARITIES = ("tensor", "axis", "block", "row", "sample")
_TEXT = re.compile(
    r"(?P<format>\w+(\[[-+\d,]+\])?)/(?P<kind>\w+)(\(axis=(?P<axis>\d+)(,size=(?P<size>\d+))?\))?"
    r"/(?P<symmetry>sym|asym)/(?P<scale>[^/]+)(/(?P<sparsity>2:4))?"
)


@dataclass(frozen=True)
class QuantSpec:
    """What is asked of one tensor; prints and parses as one line.

    >>> str(QuantSpec.parse("int4/block(axis=1,size=32)/sym/f16"))
    'int4/block(axis=1,size=32)/sym/f16'
    """

    format: Format
    granularity: str = "tensor"
    axis: int = 0
    block_size: int = 0
    is_symmetric: bool = True
    scale_format: str = "f32"
    sparsity: str | None = None  # 2:4: two of every four neighbours along the last axis are kept

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise InputError(f'unknown granularity "{self.granularity}"')
        scale_format(self.scale_format)
        if (self.granularity == "block") != (self.block_size > 0):
            raise InputError("granularity block needs a block size, and no other has one")

    @property
    def is_dynamic(self) -> bool:
        """Whether the scale is found at run time."""
        return self.granularity in ("row", "sample")

    @property
    def reach(self) -> float:
        """Of dynamic codes: the largest |x| in scales (N4). A unit below 1 clips: f32*0.9.

        >>> QuantSpec.parse("int4/row/sym/f32*0.875").reach
        8.0
        """
        limit = np.float32(2 ** (self.bits - 1) - 1)
        return float(limit / scale_format(self.scale_format).unit)

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return self.format.bits

    def __str__(self) -> str:
        where = {
            "axis": f"(axis={self.axis})",
            "block": f"(axis={self.axis},size={self.block_size})",
        }.get(self.granularity, "")
        symmetry = "sym" if self.is_symmetric else "asym"
        text = f"{self.format}/{self.granularity}{where}/{symmetry}/{self.scale_format}"
        return text if self.sparsity is None else f"{text}/{self.sparsity}"

    @classmethod
    def parse(cls, text: str) -> "QuantSpec":
        """The spec that `text` prints; InputError when it is none."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InputError(
                f'"{text}" is no quantization spec; '
                "one looks like int4/block(axis=1,size=32)/sym/f16"
            )
        return cls(
            formats.get(match["format"]),
            match["kind"],
            int(match["axis"] or 0),
            int(match["size"] or 0),
            match["symmetry"] == "sym",
            match["scale"],
            match["sparsity"],
        )
