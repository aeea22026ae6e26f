# SPDX-License-Identifier: Apache-2.0
"""What data-moving nodes of a lowered graph do to the places of a map's elements."""

import numpy as np
import onnx_ir as ir

from qcompile import code_places as places
from qcompile.code_places import Groups, Shape
from qcompile.graph import attribute, constant, input_of, is_op

Range = tuple[int, int, int, int, int]  # start, step, before, count, size of a dimension


class Unfit(Exception):
    """Why a node has no kernel."""


def moved(node: ir.Node, groups: Groups, shape: Shape) -> Groups | None:
    """The groups behind a Transpose, Reshape and their kin, or None."""
    if is_op(node, "Identity"):
        return groups
    if is_op(node, "Transpose"):
        return places.transposed(groups, attribute(node, "perm"))
    sizes = places.sizes_of(groups, shape)
    if is_op(node, "Flatten"):
        at = int(attribute(node, "axis", 1)) % (len(sizes) + 1)
        return places.reshaped(groups, shape, (0, -1)) if at == 1 else None
    operand = constant(input_of(node, 1))
    given = None if operand is None else [int(v) for v in operand]
    if is_op(node, "Reshape"):
        return None if given is None else places.reshaped(groups, shape, given)
    if is_op(node, "Squeeze") and given is not None:
        gone = {axis % (len(sizes) + 1) for axis in given}
        kept = [0, *(n for i, n in enumerate(sizes, 1) if i not in gone)]
        return None if 0 in gone else places.reshaped(groups, shape, kept)
    return None


def cut_ranges(node: ir.Node, groups: Groups, shape: Shape, zero_point: int) -> list[Range]:
    """What a Slice or a Pad does to each axis of a map; Unfit where no kernel does it."""
    sizes = places.sizes_of(groups, shape)
    is_slice = node.op_type == "Slice"
    found = slice_ranges(node, sizes) if is_slice else pad_ranges(node, sizes, zero_point)
    ranges: list[Range] = [(0, 1, 0, 1, 1)] * 3
    for group, each in zip(groups, found, strict=True):
        if len(group) == 1:
            ranges[group[0]] = each
        elif group or each != (0, 1, 0, 1, 1):
            raise Unfit("it cuts dimensions that hold several axes")
    return ranges


def slice_ranges(node: ir.Node, sizes: list[int]) -> list[Range]:
    """(start, step, 0, count, count) of every dimension behind the batch."""
    operands = [constant(input_of(node, i)) for i in range(1, 5)]
    if operands[0] is None or operands[1] is None:
        raise Unfit("its ranges are computed at run time")
    starts, ends = ([int(v) for v in found] for found in operands[:2] if found is not None)
    axes = range(len(starts)) if operands[2] is None else [int(v) for v in operands[2]]
    steps = [1] * len(starts) if operands[3] is None else [int(v) for v in operands[3]]
    ranges = [range(size) for size in sizes]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis % (len(sizes) + 1) - 1
        if place < 0 or step < 1:
            raise Unfit("it cuts the batch, or runs backwards")
        ranges[place] = range(sizes[place])[start:end:step]
        if not ranges[place]:
            raise Unfit("nothing is left of a dimension")
    return [(r.start, r.step, 0, len(r), len(r)) for r in ranges]


def pad_ranges(node: ir.Node, sizes: list[int], zero_point: int) -> list[Range]:
    """(0, 1, before, size, padded size) of every dimension behind the batch."""
    pads, fill = constant(node.inputs[1]), constant(input_of(node, 2))
    axes = constant(input_of(node, 3))
    if pads is None or attribute(node, "mode", "constant") != "constant":
        raise Unfit("it is no Pad by a constant number of zeros")
    if (0 if fill is None else int(fill)) != zero_point:
        raise Unfit("it pads with another number than 0")
    rank = len(sizes) + 1
    places_of = range(rank) if axes is None else [int(v) % rank for v in axes]
    before, after = np.zeros(rank, int), np.zeros(rank, int)
    for i, place in enumerate(places_of):
        before[place], after[place] = pads[i], pads[len(pads) // 2 + i]
    if before[0] or after[0] or min(*before, *after) < 0:
        raise Unfit("it pads the batch, or cuts")
    return [
        (0, 1, int(before[i]), size, int(before[i] + size + after[i]))
        for i, size in enumerate(sizes, 1)
    ]
