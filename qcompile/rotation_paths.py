# SPDX-License-Identifier: Apache-2.0
"""Ops that commute with a matrix on the last axis, or on blocks of it, and where products are."""

import math

import onnx_ir as ir

from qcompile.graph import (
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    only_consumer,
    rank,
)
from qcompile.int8_ops import reduced_axes
from qcompile.passes.transform.correct_bias import bias_place as correctable_place
from qcompile.products import weight_of

# In row-major order; a block stays whole where the last axes of both sides are multiples of it.
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Neg")
_OF_ONE_AXIS = ("Gather", "Concat", "Split")


def last_size(value: ir.Value | None) -> int | None:
    """The size of the last axis, where it is known."""
    size = value.shape[-1] if value is not None and value.shape else None
    return size if isinstance(size, int) else None


def carried(node: ir.Node) -> tuple[int, ...] | None:
    """The inputs whose last axis the outputs have, each element alone or in sums; None: none.

    Along other axes anything linear may happen: P · V mixes positions, ReduceMean drops them.
    """
    if is_op(node, *_RESHAPES) or (is_op(node, "Dropout") and input_of(node, 2) is None):
        return (0,)
    if is_op(node, "Mul", "Div"):
        return _scaled(node)
    if is_op(node, "MatMul"):
        right = node.inputs[1]
        is_computed = not is_constant(right) and not _is_turned(node)
        return (1,) if is_computed and (rank(right) or 0) > 1 else None
    dims = rank(node.inputs[0] if node.inputs else None)
    if dims is None:
        return None
    if is_op(node, "Transpose"):
        perm = attribute(node, "perm", None)
        return (0,) if perm is not None and perm[-1] == dims - 1 else None
    if is_op(node, "Expand", "Tile"):
        return (0,) if last_size(node.inputs[0]) == last_size(node.outputs[0]) is not None else None
    if is_op(node, "Slice", "ReduceMean", "ReduceSum"):
        axes = _sliced_axes(node) if is_op(node, "Slice") else reduced_axes(node)
        return (0,) if axes is not None and all(a % dims != dims - 1 for a in axes) else None
    if is_op(node, *_OF_ONE_AXIS):
        is_last = int(attribute(node, "axis", 0)) % dims == dims - 1
        if is_last or (is_op(node, "Gather") and is_constant(node.inputs[0])):
            return None
        return tuple(range(len(node.inputs))) if is_op(node, "Concat") else (0,)
    return None


def patches_of(node: ir.Node) -> ir.Node | None:
    """The Conv whose channels a Transpose moves to the last axis: the patches of a transformer.

    Its map [B, C, H, W] may be flattened to [B, C, H · W] between; nothing else may read it.
    """
    perm = attribute(node, "perm", None) if is_op(node, "Transpose") else None
    if perm is None or perm[0] != 0 or perm[-1] != 1:
        return None
    value = node.inputs[0]
    before = value.producer() if value is not None else None
    if is_op(before, "Reshape", "Flatten") and before is not None:
        if value is None or only_consumer(value) is not node:
            return None
        source = before.inputs[0]
        if rank(source) != 4 or rank(value) != 3 or _channels(source) != _channels(value):
            return None
        node, value, before = before, source, source.producer() if source is not None else None
    if before is None or not is_op(before, "Conv") or value is None or _channels(value) is None:
        return None
    weight, bias = weight_of(before), input_of(before, 2)
    is_whole = attribute(before, "group", 1) == 1 and (bias is None or is_constant(bias))
    is_float = weight is not None and weight.dtype == ir.DataType.FLOAT
    return before if is_whole and is_float and only_consumer(value) is node else None


def _channels(value: ir.Value | None) -> int | None:
    size = value.shape[1] if value is not None and value.shape is not None else None
    return size if isinstance(size, int) else None


def kept_parts(node: ir.Node, value: ir.Value) -> tuple[int, int] | None:
    """Where the output of a Split of the last axis begins in it, and its size."""
    dims = rank(node.inputs[0] if node.inputs else None)
    if not is_op(node, "Split") or dims is None:
        return None
    if int(attribute(node, "axis", 0)) % dims != dims - 1:
        return None
    sizes = [last_size(out) for out in node.outputs]
    if any(size is None for size in sizes):
        return None
    at = next(i for i, out in enumerate(node.outputs) if out is value)
    return sum(size or 0 for size in sizes[:at]), sizes[at] or 0


def picked_part(node: ir.Node) -> tuple[ir.Value, int, int] | None:
    """A value, and first and count of the elements of its last axis that the node picks.

    Exporters write q, k and v of one product as Reshape to [..., 3, heads, size], Transpose, and a
    Slice or Gather for each. None, too, where something else reads what is picked.
    """
    found = _picked(node)
    if found is None:
        return None
    source, reshape, first, count = found
    value = node.inputs[0]
    between = value.producer() if value is not None else None
    if value is None or between is None:
        return None
    readers = list(value.uses())
    if between is not reshape:
        readers += [use for use in reshape.outputs[0].uses() if use.node is not between]
    for use in readers:
        other = None if use.node is node else _picked(use.node)
        is_apart = other is not None and (other[2] + other[3] <= first or first + count <= other[2])
        if use.node is not node and not is_apart:
            return None
    if any(v.is_graph_output() for v in (value, reshape.outputs[0])):
        return None
    return source, first, count


def _picked(node: ir.Node) -> tuple[ir.Value, ir.Node, int, int] | None:
    """Source, its Reshape, first and count; the axis is the first that the last one became."""
    span = _span(node)
    value = node.inputs[0] if span is not None else None
    turn = value.producer() if value is not None else None
    if span is None or value is None or turn is None:
        return None
    axis, start, end = span
    reshape = turn
    if is_op(turn, "Transpose"):
        axis = int(attribute(turn, "perm", list(range(rank(value) or 0))[::-1])[axis])
        inner = turn.inputs[0]
        before = inner.producer() if inner is not None else None
        if before is None:
            return None
        reshape = before
    source, shape = reshape.inputs[0] if reshape.inputs else None, reshape.outputs[0].shape
    if not is_op(reshape, "Reshape") or source is None or shape is None:
        return None
    sizes = [d if isinstance(d, int) else 0 for d in shape][axis:]
    end = min(end, sizes[0])
    if len(sizes) < 2 or math.prod(sizes) != last_size(source) or not 0 <= start < end:
        return None
    stride = math.prod(sizes[1:])
    return source, reshape, start * stride, (end - start) * stride


def _span(node: ir.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of what a Slice of one axis or a Gather of one index picks."""
    dims = rank(node.inputs[0] if node.inputs else None)
    if dims is None:
        return None
    if is_op(node, "Gather"):
        index = constant(node.inputs[1])
        at = None if index is None or index.size != 1 else int(index.ravel()[0])
        return (
            None if at is None or at < 0 else (int(attribute(node, "axis", 0)) % dims, at, at + 1)
        )
    if not is_op(node, "Slice"):
        return None
    starts, ends, steps = (constant(input_of(node, i)) for i in (1, 2, 4))
    axes = _sliced_axes(node)
    if starts is None or ends is None or axes is None or len(axes) != 1 or starts.size != 1:
        return None
    if steps is not None and (steps != 1).any():
        return None
    return axes[0] % dims, int(starts.ravel()[0]), int(ends.ravel()[0])


def _scaled(node: ir.Node) -> tuple[int, ...] | None:
    """The other input has one number for a whole last axis."""
    for index in (0, 1):
        other = node.inputs[1 - index]
        found = constant(other) if is_constant(other) else None
        is_number = last_size(other) == 1 if found is None else _is_narrow(found.shape)
        is_value = not is_constant(node.inputs[index]) and last_size(node.inputs[index]) != 1
        if is_number and is_value and (index == 0 or is_op(node, "Mul")):
            return (index,)
    return None


def _is_narrow(shape: tuple[int, ...]) -> bool:
    return not shape or shape[-1] == 1


def _is_turned(node: ir.Node) -> bool:
    """Whether the right operand is a weight behind its Transpose."""
    value = node.inputs[1]
    turn = value.producer() if value is not None else None
    return turn is not None and is_op(turn, "Transpose") and is_constant(turn.inputs[0])


def _sliced_axes(node: ir.Node) -> tuple[int, ...] | None:
    axes = input_of(node, 3)
    if axes is None:
        starts = constant(input_of(node, 1))
        return None if starts is None else tuple(range(starts.size))
    found = constant(axes)
    return None if found is None else tuple(int(a) for a in found.ravel())


def is_product(node: ir.Node) -> bool:
    """A MatMul or Gemm whose weight is a float32 matrix [N, K]."""
    if not is_op(node, "MatMul", "Gemm"):
        return False
    weight = weight_of(node)
    if weight is None or weight.dtype != ir.DataType.FLOAT or rank(weight) != 2:
        return False
    if is_op(node, "Gemm"):
        bias = input_of(node, 2)
        is_plain = bool(attribute(node, "transB", 0)) and not attribute(node, "transA", 0)
        return is_plain and (bias is None or is_constant(bias))
    return node.inputs[1] is not weight


def is_table(node: ir.Node) -> bool:
    """A Gather of rows of a float32 matrix."""
    table = node.inputs[0] if is_op(node, "Gather") else None
    if table is None or not is_constant(table) or rank(table) != 2:
        return False
    return table.dtype == ir.DataType.FLOAT and attribute(node, "axis", 0) in (0, -2)


def weight_place(node: ir.Node) -> tuple[ir.Node, int]:
    """The node and the input that hold the weight: for MatMul those of the Transpose."""
    if is_op(node, "Gather"):
        return node, 0
    weight = node.inputs[1]
    turn = weight.producer() if weight is not None else None
    return (node, 1) if turn is None else (turn, 0)


def bias_place(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Where a product's bias [N] is, if it has one: input 2 of Gemm, or the Add behind a MatMul."""
    place = correctable_place(node)
    value = None if place is None else input_of(*place)
    return place if value is not None and is_constant(value) else None
