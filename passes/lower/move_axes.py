# SPDX-License-Identifier: Apache-2.0
"""Ops that name axes: whether they can run in another layout, and their axes there."""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, constant, input_of, is_constant, is_op

AXES = ("Concat", "Split", "Slice", "Pad", "Resize")
_SCALES, _SIZES = 2, 3  # inputs of Resize

Perm = tuple[int, ...]


def can_move_axes(node: ir.Node, perm: Perm) -> bool:
    """Whether the op's axes are constant, and ORT has the op with these axes renamed."""
    if is_op(node, "Concat", "Split"):
        return True
    if is_op(node, "Slice"):
        return input_of(node, 3) is not None and all(is_constant(v) for v in node.inputs[1:] if v)
    if is_op(node, "Resize"):
        # A size of one axis beside scales of others (`axes`) stays; so does a region of interest.
        roi = constant(input_of(node, 1))
        has_roi = input_of(node, 1) is not None and (roi is None or roi.size > 0)
        is_plain = not has_roi and "axes" not in node.attributes and len(_sizes(node)) == 1
        return is_plain and _is_resized_there(node, perm)
    return (
        len(node.inputs) < 4
        and constant(input_of(node, 1)) is not None
        and attribute(node, "mode", "constant") == "constant"
    )


def _is_resized_there(node: ir.Node, perm: Perm) -> bool:
    """Whether ORT interpolates along the renamed axes.

    Its linear mode has maps whose batch and first or last axis stay, its cubic mode only the first.
    """
    mode, shape = attribute(node, "mode", "nearest"), node.inputs[0].shape  # type: ignore[union-attr]
    if mode == "nearest":
        return True
    (index,) = _sizes(node)
    given = np.asarray(constant(node.inputs[index]))
    same = [1] * len(perm) if index == _SCALES else shape
    if same is None or mode == "cubic" or _is_transposed_twice(node):
        return False
    changed = {perm[i] for i, (a, b) in enumerate(zip(given, same, strict=True)) if a != b}
    return changed <= {1, 2} or changed <= {2, 3}


def _is_transposed_twice(node: ir.Node) -> bool:
    """Whether two Transposes come before it.

    Between two of them ONNX Runtime 1.32 moves one past the Resize, to axes that it then refuses.
    """
    turn = node.inputs[0].producer() if node.inputs[0] is not None else None
    before = turn.inputs[0].producer() if turn is not None and turn.inputs[0] is not None else None
    return is_op(before, "Transpose")


def _sizes(node: ir.Node) -> list[int]:
    """The inputs of a Resize that hold one constant number an axis: scales or sizes."""
    found = [(i, constant(input_of(node, i))) for i in (_SCALES, _SIZES)]
    return [i for i, array in found if array is not None and array.size]


def move_axes(graph: ir.Graph, node: ir.Node, perm: Perm) -> None:
    """Rename the axes: axis i of the transpose is axis perm[i] of its source."""
    if is_op(node, "Concat", "Split"):
        axis = int(attribute(node, "axis", 0))
        node.attributes["axis"] = ir.AttrInt64("axis", perm[axis % len(perm)])
    elif is_op(node, "Slice"):
        axes = np.asarray(constant(node.inputs[3]))
        moved = np.array([perm[int(a) % len(perm)] for a in axes.ravel()], axes.dtype)
        node.replace_input_with(3, add_initializer(graph, f"{node.name}_axes", moved))
    elif is_op(node, "Resize"):
        (index,) = _sizes(node)
        given = np.asarray(constant(node.inputs[index]))
        source = np.zeros_like(given)
        source[list(perm)] = given
        node.replace_input_with(index, add_initializer(graph, f"{node.name}_sizes", source))
    else:
        pads = np.asarray(constant(node.inputs[1])).reshape(2, -1)
        source = np.zeros_like(pads)
        source[:, list(perm)] = pads
        node.replace_input_with(1, add_initializer(graph, f"{node.name}_pads", source.ravel()))
