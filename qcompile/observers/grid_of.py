# SPDX-License-Identifier: Apache-2.0
"""Weights that lie on a grid already: their codes, without any error.

Training at low bits leaves such weights in float files: ternary ones, ±α of binarised networks
(the sign of a sine in BiPer, too), 15 levels, integers or a float format times a scale of each
output or block, one codebook of at most 16 levels times such scales (codebook_of.py), a codebook
for each of them (palette_of.py), or few values of any kind. A weight is on a grid only if every one
of its values is *the* float32 product of a code's value and a scale, or is in its block's codebook:
ordinary weights never are (a property test).

Scales are searched: the largest magnitude of a row is its scale times a whole number of at most
127, and that number is taken for which all others are whole as well.
"""

import numpy as np
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.formats import FORMATS, Format
from qcompile.numerics.quantize import store_scale
from qcompile.numerics.weight import CodedWeight
from qcompile.observers.codebook_of import MOST_LEVELS, codebook_of, in_blocks, integers_of
from qcompile.observers.palette_of import palette_of
from qcompile.spec import QuantSpec

BLOCK_SIZES = (256, 128, 64, 32)  # the fewest scales first
_LARGEST = 127
_MOST_VALUES = 256
_SHORTEST = 4  # columns: three values or fewer are on some grid by chance
_ULPS = np.arange(-3, 4)
_NEARLY_WHOLE = 1e-4
_SLICE = 1 << 20


def grid_of(
    weight: NDArray[np.float32], *, has_blocks: bool, has_codebooks: bool = False
) -> CodedWeight | None:
    """The weight [N, K] in codes that decode to it bit for bit, or None.

    One scale an output, else one a block where `has_blocks`, else a table of all its values where
    they are at most 16, else a codebook with such scales, else, where `has_codebooks`, a codebook
    each, else a table of at most 256 values.
    """
    k = weight.shape[1]
    if k < _SHORTEST or not weight.any():
        return None
    sizes = [0, *(size for size in BLOCK_SIZES if size < k)] if has_blocks else [0]
    for size in sizes:
        found = _scaled(weight, size)
        if found is not None:
            return found
    table = _table_of_values(weight)
    if table is not None and table.format.num_codes <= MOST_LEVELS:
        return table
    coded = (codebook_of(weight, size) for size in sizes)
    found = next((found for found in coded if found is not None), None)
    if found is None and has_codebooks:
        found = palette_of(weight, sizes)
    return table if found is None else found


def exact_codes(weight: NDArray[np.float32], spec: QuantSpec) -> CodedWeight:
    """The codes of a weight [N, K] that was found to lie on the grid of the spec."""
    if spec.format.has_codebook:
        found = palette_of(weight, [spec.block_size])
    else:
        found = grid_of(weight, has_blocks=spec.granularity == "block")
    if found is None or spec_of(found) != spec:
        raise ValueError(f"the weight left the grid that was planned for it, {spec}")
    return found


def spec_of(weight: CodedWeight) -> QuantSpec:
    """The spec of a weight on a grid."""
    if not weight.block_size:
        return QuantSpec(weight.format, "axis", scale_format=weight.scale_format)
    return QuantSpec(weight.format, "block", 1, weight.block_size, scale_format=weight.scale_format)


def _scaled(weight: NDArray[np.float32], block_size: int) -> CodedWeight | None:
    """Whole numbers times a scale of each row or block."""
    n, k = weight.shape
    if len(np.unique(weight[0, : block_size or k])) > 2 * _LARGEST + 1:
        return None
    rows = in_blocks(weight, block_size or k)
    whole = np.empty(rows.shape, np.int16)
    scale = np.empty(len(rows), np.float32)
    for i, row in enumerate(rows):
        found = _whole_numbers(row)
        if found is None:
            return None
        whole[i], scale[i] = found
    format = _narrowest(np.unique(whole))
    codes = _codes(whole, format).reshape(n, -1)[:, :k]
    scales = scale.reshape(n, -1)
    halves = store_scale(scales, "f16")
    form = "f16" if block_size and np.array_equal(halves, scales) else "f32"
    return CodedWeight(codes, scales, None, format, block_size, form)


def _whole_numbers(row: NDArray[np.float32]) -> tuple[NDArray[np.int16], np.float32] | None:
    """The row as whole numbers times its scale, the smallest such numbers."""
    sizes = np.unique(np.abs(row))
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return np.zeros(row.shape, np.int16), np.float32(1)
    if len(sizes) > _LARGEST or not np.isfinite(sizes[-1]) or sizes[0] < 2.0**-100:
        return None
    tops = np.arange(len(sizes), _LARGEST + 1)
    ratio = sizes.astype(np.float64)[:, None] / sizes[-1] * tops
    near = np.abs(ratio - np.rint(ratio)).max(0) < _NEARLY_WHOLE * tops
    for top in tops[near]:
        units = np.rint(sizes.astype(np.float64) / sizes[-1] * top).astype(np.float32)
        first = np.float32(sizes[-1] / np.float32(top))
        tried = (first.view(np.int32) + _ULPS).astype(np.int32).view(np.float32)
        exact = (tried[:, None] * units == sizes).all(1)
        if exact.any():
            scale = tried[np.flatnonzero(exact)[np.abs(_ULPS[exact]).argmin()]]
            at = np.searchsorted(sizes, np.abs(row))
            found = np.where(row == 0, 0, units[np.minimum(at, len(units) - 1)])
            return (np.sign(row) * found).astype(np.int16), scale
    return None


def _narrowest(values: NDArray[np.int16]) -> Format:
    """The format of fewest bits that has all these values."""
    held = set(values.tolist())
    largest = int(np.abs(values).max())
    integer = formats.get(f"int{max(largest.bit_length() + 1, 2)}")
    tables = [f for f in map(FORMATS.__getitem__, _exact_tables()) if f.bits < integer.bits]
    tables += [formats.get("ternary")] * (largest == 1)
    fitting = [f for f in tables if held <= set(f.values.tolist())]
    return min([*fitting, integer], key=lambda f: np.log2(f.num_codes))


def _exact_tables() -> list[str]:
    return ["binary", "e2m1", "e3m0", "e2m3"]


def _codes(values: NDArray[np.int16], format: Format) -> NDArray[np.int16]:
    """The first code of every value."""
    if not format.is_table:
        return values
    ordered, first = np.unique(format.values, return_index=True)
    return format.codes[first[np.searchsorted(ordered, values)]]


def _table_of_values(weight: NDArray[np.float32]) -> CodedWeight | None:
    """The index of every value in a table of all of them, whose unit is a power of two."""
    held: NDArray[np.float32] = np.unique(weight[0])
    step = max(1, _SLICE // weight.shape[1])
    for first in range(0, len(weight), step):
        held = np.union1d(held, weight[first : first + step])
        if len(held) > _MOST_VALUES:
            return None
    if not np.isfinite(held).all() or held.size * 4 > weight.size:
        return None
    found = integers_of(held)
    if found is None:
        return None
    entries, unit = found
    format = formats.get(f"values[{','.join(map(str, entries))}]")
    codes = np.searchsorted(held, weight).astype(np.int16)
    scale = np.full((len(weight), 1), 2.0**unit, np.float32)
    return CodedWeight(codes, scale, None, format)
