# SPDX-License-Identifier: Apache-2.0
"""Move a transpose past DepthToSpace (mode DCR) and SpaceToDepth, which in NHWC move whole pixels.

Before:
    { t = Transpose <perm = [0,3,1,2]> (x)   y = DepthToSpace <blocksize = 2> (t) }
After:
    { a = Reshape (x, [0,h,w,2,2,c])   s = Transpose <perm = [0,1,3,2,4,5]> (a)
      y_nhwc = Reshape (s, [0,2*h,2*w,c])   y = Transpose <perm = [0,3,1,2]> (y_nhwc) }
Refuses: mode CRD, which in NHWC moves single numbers (2.5 times the time of both transposes); a map
whose size is not known.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    LAYOUT,
    NHWC,
    add_initializer,
    attribute,
    is_op,
    new_node,
    remove_dead,
    replace,
)
from qcompile.passes.lower.lowered import TO_NCHW, transpose

SWAP = (0, 1, 3, 2, 4, 5)  # of rows and pixels in a block, or back


def move_past_pixels(graph: ir.Graph, node: ir.Node) -> bool:
    """Rewrite a DepthToSpace or SpaceToDepth of a transposed map."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if not is_op(node, "DepthToSpace", "SpaceToDepth") or before is None:
        return False
    if not is_op(before, "Transpose") or tuple(attribute(before, "perm", ())) != TO_NCHW:
        return False
    source = before.inputs[0]
    if source is None or source.shape is None or attribute(node, "mode", "DCR") != "DCR":
        return False
    batch, *sizes = source.shape
    if not all(isinstance(size, int) for size in sizes):
        return False
    inner, outer = _shapes(node, *(int(d) for d in sizes))  # type: ignore[arg-type]
    _rewrite(graph, node, source, [batch, *inner], [batch, *outer])
    remove_dead(graph, [before, node])
    return True


def _shapes(node: ir.Node, H: int, W: int, C: int) -> tuple[list[int], list[int]]:
    """Of the map in blocks, and of the result; without the batch."""
    b = int(attribute(node, "blocksize", 1))
    if is_op(node, "DepthToSpace"):
        return [H, W, b, b, C // (b * b)], [H * b, W * b, C // (b * b)]
    return [H // b, b, W // b, b, C], [H // b, W // b, b * b * C]


def _rewrite(
    graph: ir.Graph,
    node: ir.Node,
    source: ir.Value,
    inner: list[int | ir.SymbolicDim],
    outer: list[int | ir.SymbolicDim],
) -> None:
    out, dtype = node.outputs[0], source.dtype or ir.DataType.FLOAT
    name = out.name or ""
    blocks = _reshape(graph, source, inner, f"{name}_blocks", dtype)
    swap = transpose(blocks.outputs[0], SWAP, f"{name}_swapped")
    end = _reshape(graph, swap.outputs[0], outer, f"{name}_nhwc", dtype)
    end.outputs[0].metadata_props.update({**out.metadata_props, LAYOUT: NHWC})
    after = transpose(end.outputs[0], TO_NCHW, f"{name}_nchw")
    graph.insert_after(node, [blocks, swap, end, after])
    replace(out, after.outputs[0])
    out.name, after.outputs[0].name = f"{name}_before", name


def _reshape(
    graph: ir.Graph,
    value: ir.Value,
    sizes: list[int | ir.SymbolicDim],
    name: str,
    dtype: ir.DataType,
) -> ir.Node:
    target = add_initializer(graph, f"{name}_shape", np.array([0, *sizes[1:]], np.int64))
    shape = ir.Shape(sizes)
    return new_node("Reshape", [value, target], f"{name}/reshape", name, dtype=dtype, shape=shape)
