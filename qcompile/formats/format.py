# SPDX-License-Identifier: Apache-2.0
"""A number format is a table: the value of every code."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_INT8, _INT16 = 127, 32767


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
    integers that float32 holds exactly: `table_scale` is what one unit of the table is worth in the
    format's own definition. `levels` is the number of codes where that is no power of two.
    `is_fitted`: the table is where a fit to each weight starts. `has_own_table`: the name alone
    does not say the table, so the text does.
    `special_code` is a code that means one of `specials` in each block of a weight, which its zero
    point says (BitMoD); the table's entry of it repeats 0.
    `turns`: the codes are those of turned rows.
    `has_codebook`: a code is a place among the levels of its block, which the weight holds (N44);
    what is said here of values does not hold then.
    """

    name: str
    bits: int
    is_signed: bool
    table: tuple[int, ...] | None = None
    table_scale: float = 1.0
    levels: int | None = None
    is_fitted: bool = False
    has_own_table: bool = False
    special_code: int | None = None
    specials: tuple[int, ...] = ()
    turns: Turns | None = None
    has_codebook: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"format {self.name}: {self.bits} bits; 1 to 8 are possible")
        if self.table is not None and len(self.table) != 2**self.bits:
            raise ValueError(
                f"format {self.name}: {len(self.table)} values for {self.bits} bits; "
                f"needs {2**self.bits}"
            )
        if (self.special_code is None) != (not self.specials):
            raise ValueError(f"format {self.name}: special_code and specials come together")

    def __str__(self) -> str:
        if not self.has_own_table or self.table is None:
            return self.name
        return f"{self.name}[{','.join(map(str, self.table))}]"

    @property
    def is_table(self) -> bool:
        """Whether codes are indices into a table; no zero point is subtracted then."""
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

    @property
    def zero_code(self) -> int | None:
        """The code whose value is 0, the first of several; None where there is none."""
        found = np.flatnonzero(self.values == 0)
        return self.code_min + int(found[0]) if len(found) else None

    @cached_property
    def codes(self) -> NDArray[np.int16]:
        """All codes, int16 [num_codes]."""
        return np.arange(self.code_min, self.code_max + 1, dtype=np.int16)

    @cached_property
    def values(self) -> NDArray[np.signedinteger]:
        """The value of every code [num_codes], in the order of `codes`; int64 beyond int16."""
        if self.table is None:
            return self.codes
        return np.array(self.table, np.int16 if self.entry_bits <= 16 else np.int64)

    @property
    def entry_bits(self) -> int:
        """Bits of the integers that stand for its values: 8, 16 or 64."""
        largest = max(map(abs, self.table)) if self.table is not None else 0
        return 8 if largest <= _INT8 else 16 if largest <= _INT16 else 64

    def in_int16(self) -> "Format":
        """The same with entries of 16 bits, which integer kernels take; itself if they are.

        Entries are divided by a power of two and rounded; `rounding_error` says what that loses.

        >>> from qcompile.formats import get
        >>> str(get("e4m3").in_int16()), get("e4m3").in_int16().values.max()
        ('e4m3_int16', np.int16(28672))
        """
        if self.entry_bits <= 16 or self.table is None:
            return self
        largest = max(map(abs, self.table))
        unit = 2 ** max((largest // (_INT16 + 1)).bit_length(), 1)
        table = tuple(int(np.rint(v / unit)) for v in self.table)
        return replace(
            self, name=self.name + INT16, table=table, table_scale=self.table_scale * unit
        )

    def rounding_error(self, exact: "Format") -> float:
        """The most that an entry is off that of the exact format, as a share of the greatest one.

        >>> from qcompile.formats import get
        >>> get("e4m3").in_int16().rounding_error(get("e4m3")) < 2**-15
        True
        """
        ratio = exact.values.astype(np.float64) * (exact.table_scale / self.table_scale)
        return float(np.abs(ratio - self.values).max() / np.abs(ratio).max())

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
        """The greatest magnitude of a value that quantization produces, special ones left out.

        >>> from qcompile.formats import get
        >>> get("int4").absmax(symmetric=True), get("e2m1").absmax(symmetric=True)
        (7, 12)
        """
        low, high = self.quantized_range(symmetric=symmetric)
        chosen = self.values[low - self.code_min : high - self.code_min + 1]
        return int(np.abs(chosen.astype(np.int64)).max())


INT16 = "_int16"  # what names of tables narrowed to int16 end in
