# SPDX-License-Identifier: Apache-2.0
"""Move a transpose past a channel shuffle, which in NHWC swaps two parts of the last axis.

Before:
    { t = Transpose <perm = [0,3,1,2]> (x)   a = Reshape (t, [b,g,c,h,w])
      s = Transpose <perm = [0,2,1,3,4]> (a)   y = Reshape (s, [b,g*c,h,w]) }
After:
    { a = Reshape (x, [0,h,w,g,c])   s = Transpose <perm = [0,1,2,4,3]> (a)
      y_nhwc = Reshape (s, [0,h,w,g*c])   y = Transpose <perm = [0,3,1,2]> (y_nhwc) }
Refuses: sizes of the groups or of the map are not known; the parts have other readers.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    LAYOUT,
    NHWC,
    add_initializer,
    attribute,
    constant,
    is_op,
    new_node,
    only_consumer,
    remove_dead,
    replace,
)
from qcompile.passes.lower.lowered import TO_NCHW, TO_NHWC, permuted, transpose

SWAP, SWAP_LAST = (0, 2, 1, 3, 4), (0, 1, 2, 4, 3)


def move_past_shuffle(graph: ir.Graph, node: ir.Node) -> bool:
    """Rewrite the shuffle that starts at a Reshape of a transposed map."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if not is_op(node, "Reshape") or before is None or not is_op(before, "Transpose"):
        return False
    sizes, swap = constant(node.inputs[1]), only_consumer(node.outputs[0])
    if tuple(attribute(before, "perm", ())) != TO_NCHW or sizes is None or len(sizes) != 5:
        return False
    if swap is None or not is_op(swap, "Transpose") or tuple(attribute(swap, "perm", ())) != SWAP:
        return False
    end, source = only_consumer(swap.outputs[0]), before.inputs[0]
    if end is None or not is_op(end, "Reshape") or source is None or source.shape is None:
        return False
    if end.outputs[0].shape is None or len(end.outputs[0].shape) != 4:
        return False
    groups, channels, (height, width, total) = int(sizes[1]), int(sizes[2]), source.shape[1:]
    if end.outputs[0].shape[1] != total or groups * channels != total:
        return False
    if not isinstance(height, int) or not isinstance(width, int):
        return False
    _rewrite(graph, source, (before, node, swap, end), (height, width, groups, channels))
    return True


def _rewrite(
    graph: ir.Graph,
    source: ir.Value,
    old: tuple[ir.Node, ir.Node, ir.Node, ir.Node],
    sizes: tuple[int, int, int, int],
) -> None:
    out, dtype = old[-1].outputs[0], source.dtype or ir.DataType.FLOAT
    name, (height, width, groups, channels) = out.name or "", sizes
    batch = source.shape[0] if source.shape is not None else None
    parts = add_initializer(graph, f"{name}_parts", np.array([0, *sizes], np.int64))
    whole = np.array([0, height, width, groups * channels], np.int64)
    wide = ir.Shape([batch, *sizes])
    reshape = new_node(
        "Reshape",
        [source, parts],
        f"{name}_grouped/reshape",
        f"{name}_grouped",
        dtype=dtype,
        shape=wide,
    )
    swap = transpose(reshape.outputs[0], SWAP_LAST, f"{name}_swapped")
    end = new_node(
        "Reshape",
        [swap.outputs[0], add_initializer(graph, f"{name}_whole", whole)],
        f"{name}_nhwc/reshape",
        f"{name}_nhwc",
        dtype=dtype,
        shape=permuted(out.shape, TO_NHWC),
    )
    end.outputs[0].metadata_props.update({**out.metadata_props, LAYOUT: NHWC})
    after = transpose(end.outputs[0], TO_NCHW, f"{name}_nchw")
    graph.insert_after(old[-1], [reshape, swap, end, after])
    replace(out, after.outputs[0])
    remove_dead(graph, old)
    after.outputs[0].name = name
