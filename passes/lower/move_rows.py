# SPDX-License-Identifier: Apache-2.0
"""Make rows of pixels of an NHWC map by a Reshape alone, where NCHW needs two transposes.

Before:
    { t = Transpose <perm = [0,3,1,2]> (x)   a = Reshape (t, [0,c,h*w])
      y = Transpose <perm = [0,2,1]> (a) }
After:
    { y = Reshape (x, [0,h*w,c]) }
Refuses: the rows of a map whose size is not known; other readers between.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    LAYOUT,
    add_initializer,
    attribute,
    is_op,
    new_node,
    only_consumer,
    remove_dead,
    replace,
)
from qcompile.passes.lower.lowered import TO_NCHW

ROWS_FIRST = (0, 2, 1)


def move_past_rows(graph: ir.Graph, node: ir.Node) -> bool:
    """Rewrite the rows that start at a Reshape of a transposed map."""
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if not is_op(node, "Reshape", "Flatten") or before is None or not is_op(before, "Transpose"):
        return False
    last, source = only_consumer(node.outputs[0]), before.inputs[0]
    if last is None or not is_op(last, "Transpose") or source is None or source.shape is None:
        return False
    perms = tuple(attribute(before, "perm", ())), tuple(attribute(last, "perm", ()))
    if perms != (TO_NCHW, ROWS_FIRST) or not all(isinstance(d, int) for d in source.shape[1:]):
        return False
    H, W, C = (int(d) for d in source.shape[1:])  # type: ignore[arg-type]
    rows = node.outputs[0].shape
    if rows is None or list(rows[1:]) != [C, H * W]:
        return False
    _rewrite(graph, source, last, [H * W, C])
    remove_dead(graph, [before, node, last])
    return True


def _rewrite(graph: ir.Graph, source: ir.Value, last: ir.Node, sizes: list[int]) -> None:
    out = last.outputs[0]
    name, batch = out.name or "", source.shape[0] if source.shape is not None else None
    target = add_initializer(graph, f"{name}_rows", np.array([0, *sizes], np.int64))
    made = new_node(
        "Reshape",
        [source, target],
        f"{name}/rows",
        f"{name}_pixels",
        dtype=source.dtype or ir.DataType.FLOAT,
        shape=ir.Shape([batch, *sizes]),
    )
    kept = {k: v for k, v in out.metadata_props.items() if k != LAYOUT}
    made.outputs[0].metadata_props.update(kept)
    graph.insert_after(last, made)
    replace(out, made.outputs[0])
    out.name, made.outputs[0].name = f"{name}_before", name
