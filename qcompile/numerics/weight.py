# SPDX-License-Identifier: Apache-2.0
"""CodedWeight: a quantized weight as codes, scales and zero points, before any packing."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcompile.formats import Format


@dataclass(frozen=True)
class CodedWeight:
    """A weight [N, K] in codes.

    codes int16 [N, K] (the signed or unsigned integer, or the index into a table); scale float32
    [N, num_blocks], or None where a static product carries it in its multiplier; zero_point int16
    [N, num_blocks] or None; block_size 0 = one block of K. scale_format: how scales are stored,
    with the unit that they are in (formats/scales.py). Of a format with special values
    zero_point is what its special code means in each block. kept bool [N, K]: while codes are
    found, which of them sparsity keeps; the others decode to 0. levels float32 [N, num_blocks,
    2^bits]: what the codes of each block mean where the format has a codebook (N44), in the place
    of scales and zero points; scale_format, f16 or f32, is how they are stored.
    """

    codes: NDArray[np.int16]
    scale: NDArray[np.float32] | None
    zero_point: NDArray[np.int16] | None
    format: Format
    block_size: int = 0
    scale_format: str = "f32"
    kept: NDArray[np.bool_] | None = None
    levels: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n, _ = self.codes.shape
        parts = {"scale": self.scale, "zero_point": self.zero_point}
        low, high = self.format.code_min, self.format.code_max
        if self.codes.size and (self.codes.min() < low or self.codes.max() > high):
            raise ValueError(f"codes leave {low} … {high} of {self.format}")
        for name, part in parts.items():
            if part is not None and part.shape != (n, self.num_blocks):
                raise ValueError(f"{name} is {part.shape}; needs {(n, self.num_blocks)}")
        if self.format.has_codebook or self.levels is not None:
            self._check_levels()
            return
        if self.format.specials and self.zero_point is None:
            raise ValueError(f"format {self.format} needs special values")
        if self.format.is_table and not self.format.specials and self.zero_point is not None:
            raise ValueError(f"table format {self.format} has no zero point (N1)")
        if (self.scale is None) != (self.scale_format == "none"):
            raise ValueError(f'scale_format "{self.scale_format}" does not fit the scales given')

    def _check_levels(self) -> None:
        wanted = (len(self.codes), self.num_blocks, self.format.num_codes)
        if not self.format.has_codebook or self.levels is None or self.levels.shape != wanted:
            held = None if self.levels is None else self.levels.shape
            raise ValueError(f"format {self.format} with levels {held}; a codebook has {wanted}")
        if self.scale is not None or self.zero_point is not None:
            raise ValueError(f"format {self.format} has levels, and no scale or zero point (N44)")
        if self.scale_format not in ("f16", "f32"):
            raise ValueError(f'levels are f16 or f32; scale_format "{self.scale_format}" was given')

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def block(self) -> int:
        """Columns of a full block."""
        return self.block_size or max(self.codes.shape[1], 1)

    @property
    def num_blocks(self) -> int:
        """ceil(K / block_size) (N5)."""
        return -(-self.codes.shape[1] // self.block)

    def rows(self, chosen: NDArray[np.int64] | slice) -> "CodedWeight":
        """These rows of the weight."""
        scale = None if self.scale is None else self.scale[chosen]
        point = None if self.zero_point is None else self.zero_point[chosen]
        kept = None if self.kept is None else self.kept[chosen]
        levels = None if self.levels is None else self.levels[chosen]
        parts = {"scale": scale, "zero_point": point, "kept": kept, "levels": levels}
        return replace(self, codes=self.codes[chosen], **parts)  # type: ignore[arg-type]

    def masked(self, codes: NDArray[np.int16]) -> NDArray[np.int16]:
        """The codes [N, K], those of 0 where this weight keeps none."""
        if self.kept is None:
            return codes
        zero = np.int16(self.format.zero_code or 0)
        points = zero if self.zero_point is None else self.per_column(self.zero_point)
        return np.where(self.kept, codes, points).astype(np.int16)

    def unsigned(self) -> NDArray[np.uint8]:
        """The packed form of the codes (docs/layouts.md), uint8 [N, K]."""
        return (self.codes + self.format.offset).astype(np.uint8)

    def values(self) -> NDArray[np.signedinteger]:
        """`code − zero_point`, or the table's value: int32 [N, K], unscaled; int64 beyond int16."""
        if self.levels is not None:
            raise ValueError(f"{self.format} has levels, which are no integers (N44)")
        found = self.format.values[self.codes - self.format.code_min]
        kind = np.int32 if self.format.entry_bits <= 16 else np.int64
        values: NDArray[np.signedinteger] = found.astype(kind)
        if self.format.specials and self.zero_point is not None:
            is_special = self.codes == self.format.special_code
            return np.where(is_special, self.per_column(self.zero_point), values).astype(kind)
        return values if self.zero_point is None else values - self.per_column(self.zero_point)

    def per_column(self, per_block: NDArray) -> NDArray:
        """[N, num_blocks] repeated to [N, K]."""
        return np.repeat(per_block, self.block, axis=1)[:, : self.codes.shape[1]]

    def decode(self) -> NDArray[np.float32]:
        """The real weight, float32 [N, K] (N1, N44); needs scales or levels."""
        if self.levels is not None:
            rows = np.arange(len(self.codes))[:, None]
            block = np.arange(self.codes.shape[1]) // self.block
            return self.levels[rows, block, self.codes]
        if self.scale is None:
            raise ValueError("this weight carries its scales in a multiplier")
        return self.values().astype(np.float32) * self.per_column(self.scale)


def coded_weight(
    format: Format,
    block_size: int,
    scale_format: str,
    codes: NDArray,
    scale: NDArray | None,
    zero_point: NDArray | None,
    rows: slice = slice(None),
) -> CodedWeight:
    """Rows of a lowered weight. Codes of uint8 (and zero points) may come in an int8 container.

    Where the format has a special code, zero_point holds the special values; where it has a
    codebook, scale holds the levels.
    """
    if format.has_codebook:
        assert scale is not None
        held = np.asarray(scale[rows], np.float32)
        kind = format, block_size, scale_format
        return CodedWeight(_widen(codes[rows], format), None, None, *kind, levels=held)
    point = None
    if zero_point is not None:
        part = zero_point[rows]
        point = part.astype(np.int16) if format.specials else _widen(part, format)
    return CodedWeight(
        _widen(codes[rows], format),
        None if scale is None else scale[rows].astype(np.float32),
        point,
        format,
        block_size,
        scale_format,
    )


def _widen(codes: NDArray, format: Format) -> NDArray[np.int16]:
    wide = codes.astype(np.int16)
    return wide & 0xFF if format.code_max > 127 else wide
