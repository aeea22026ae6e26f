# SPDX-License-Identifier: Apache-2.0
"""A number format is a table: the value of every code."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Turns:
    """How rows are turned before they are coded: blocks of so many columns (0: whole rows), and how
    many rounds of random signs and a Hadamard transform.
    """

    block: int
    rounds: int


@dataclass(frozen=True)
class Format:
    """How one number of at most 8 bits is coded.

    Integer formats code the integers of `bits` bits; a code *is* its value (N1). Table formats name
    a value for each index 0 … 2^bits − 1 in `table`; a code is an index. Values of a table are
    integers, so that packed kernels compute with them exactly: `table_scale` is what one unit of
    the table is worth in the format's own definition. `levels` is the number of codes where
    that is no power of two. `turns`: the codes are those of turned rows.
    """

    name: str
    bits: int
    is_signed: bool
    table: tuple[int, ...] | None = None
    table_scale: float = 1.0
    levels: int | None = None
    turns: Turns | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"format {self.name}: {self.bits} bits; 1 to 8 are possible")
        if self.table is not None and len(self.table) != 2**self.bits:
            raise ValueError(
                f"format {self.name}: {len(self.table)} values for {self.bits} bits; "
                f"needs {2**self.bits}"
            )

    def __str__(self) -> str:
        return self.name

    @property
    def is_table(self) -> bool:
        """Whether codes are indices into a table (then there is no zero point)."""
        return self.table is not None

    @property
    def num_codes(self) -> int:
        """2^bits, or `levels`."""
        return self.levels or 2**self.bits

    @property
    def code_min(self) -> int:
        """The least code that the container holds."""
        return -(self.num_codes // 2) if self.is_signed and not self.is_table else 0

    @property
    def code_max(self) -> int:
        """The greatest code."""
        return self.code_min + self.num_codes - 1

    @property
    def offset(self) -> int:
        """What is added to a code to get the packed, unsigned one (docs/layouts.md)."""
        return -self.code_min

    @cached_property
    def codes(self) -> NDArray[np.int16]:
        """All codes, int16 [num_codes]."""
        return np.arange(self.code_min, self.code_max + 1, dtype=np.int16)

    @cached_property
    def values(self) -> NDArray[np.int16]:
        """The value of every code, int16 [num_codes], in the order of `codes`."""
        return self.codes if self.table is None else np.array(self.table, np.int16)

    def quantized_range(self, *, symmetric: bool) -> tuple[int, int]:
        """Least and greatest *code* that quantization produces (N3).

        >>> from qcompile.formats import get
        >>> get("int4").quantized_range(symmetric=True)
        (-7, 7)
        >>> get("uint4").quantized_range(symmetric=False)
        (0, 15)
        """
        has_odd_code = self.num_codes % 2 == 0  # a least one, without its opposite
        if symmetric and self.is_signed and not self.is_table and has_odd_code and self.bits > 1:
            return self.code_min + 1, self.code_max
        return self.code_min, self.code_max

    def absmax(self, *, symmetric: bool) -> int:
        """The greatest magnitude of a value that quantization produces.

        >>> from qcompile.formats import get
        >>> get("int4").absmax(symmetric=True), get("e2m1").absmax(symmetric=True)
        (7, 12)
        """
        low, high = self.quantized_range(symmetric=symmetric)
        chosen = self.values[low - self.code_min : high - self.code_min + 1]
        return int(np.abs(chosen.astype(np.int32)).max())
