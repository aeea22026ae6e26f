# SPDX-License-Identifier: Apache-2.0
"""Where the elements of an ONNX value lie in a map (H, W, C): what transposing and reshaping do.

A value [B, …] has a group for every dimension behind B: the axes of the map that it holds, the
slowest first. Maps NHWC have ((0,), (1,), (2,)), NCHW ((2,), (0,), (1,)), a flattened NCHW map
((2, 0, 1),), and a dimension of 1 that holds none ().
"""

import math
from collections.abc import Sequence

Groups = tuple[tuple[int, ...], ...]
Shape = tuple[int, int, int]

NHWC: Groups = ((0,), (1,), (2,))


def of_perm(perm: Sequence[int], rank: int) -> Groups:
    """The groups of a value whose Transpose by perm is a map: NHWC, or rows (1, 1, C).

    >>> of_perm((0, 2, 3, 1), 4), of_perm((0, 1), 2)
    (((2,), (0,), (1,)), ((2,),))
    """
    if rank == 2:
        return ((2,),)
    return tuple((axis,) for axis in (list(perm).index(i) - 1 for i in range(1, rank)))


def transposed(groups: Groups, perm: Sequence[int]) -> Groups | None:
    """The groups after a Transpose; None where it moves the batch.

    >>> transposed(((2,), (0,), (1,)), (0, 2, 3, 1))
    ((0,), (1,), (2,))
    """
    if perm[0] != 0 or len(perm) != len(groups) + 1:
        return None
    return tuple(groups[i - 1] for i in perm[1:])


def reshaped(groups: Groups, shape: Shape, dims: Sequence[int]) -> Groups | None:
    """The groups after a Reshape to dims (B first, 0 and −1 as ONNX has them), or None.

    Dimensions may be merged, and those of 1 dropped or added; none is split.

    >>> reshaped(((2,), (0,), (1,)), (4, 4, 8), (0, -1)), reshaped(NHWC, (1, 1, 8), (-1, 8))
    (((2, 0, 1),), ((2,),))
    >>> reshaped(NHWC, (4, 4, 8), (0, 2, 2, -1)) is None
    True
    """
    sizes = [math.prod(shape[axis] for axis in group) for group in groups]
    wanted = _resolved(sizes, dims)
    left = [axis for group in groups for axis in group if shape[axis] > 1]
    out: list[tuple[int, ...]] = []
    for size in wanted or ():
        taken: list[int] = []
        while math.prod(shape[axis] for axis in taken) < size and left:
            taken.append(left.pop(0))
        if math.prod(shape[axis] for axis in taken) != size:
            return None
        out.append(tuple(taken))
    return None if left or wanted is None else tuple(out)


def _resolved(sizes: list[int], dims: Sequence[int]) -> list[int] | None:
    """The dimensions behind the batch as numbers."""
    if not dims or (dims[0] == 0 and dims.count(-1) > 1):
        return None
    wanted = [sizes[i] if d == 0 and i < len(sizes) else d for i, d in enumerate(dims[1:])]
    if wanted.count(-1) == 1:
        known = -math.prod(wanted)
        if known <= 0 or math.prod(sizes) % known:
            return None
        wanted[wanted.index(-1)] = math.prod(sizes) // known
    fits = all(d > 0 for d in wanted) and math.prod(wanted) == math.prod(sizes)
    return wanted if fits else None


def is_map(groups: Groups, shape: Shape) -> bool:
    """Whether the value is the map, channels last: axes of 1 may be anywhere.

    >>> is_map(((0,), (1,), (2,)), (4, 4, 8)), is_map(((2,), (0,), (1,)), (1, 1, 8))
    (True, False)
    """
    return len(groups) == 3 and all(
        groups[i] == (i,) or (shape[i] == 1 and groups[i] == ()) for i in range(3)
    )


def order_of(groups: Groups) -> tuple[int, ...] | None:
    """The order of the axes in the only dimension of a row, or None where there are several."""
    return groups[0] if len(groups) == 1 else None


def sizes_of(groups: Groups, shape: Shape) -> list[int]:
    """The dimensions behind the batch.

    >>> sizes_of(((2,), (0,), (1,)), (4, 5, 8))
    [8, 4, 5]
    """
    return [math.prod(shape[axis] for axis in group) for group in groups]
