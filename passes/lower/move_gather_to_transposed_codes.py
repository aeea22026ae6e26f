# SPDX-License-Identifier: Apache-2.0
"""Move the Gather of a tied table to the codes [K, N] of the product that shares the table.

Before:
    { rows = Gather (w_codes, i)   y = MatMulInteger (x, w_codes_kn) }
After:
    { columns = Gather <axis = 1> (w_codes_kn, i)   rows = Transpose (columns)
      y = MatMulInteger (x, w_codes_kn) }
Refuses: codes that something else reads as they are.

The table lies in the file once. Reading columns costs 19 µs for one token where a row costs 12, and
20 ms for 512 where rows cost 0.06 (K = 768, N = 50257): a prompt pays for the smaller file.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    add_initializer,
    attribute,
    derivation,
    is_op,
    new_node,
    rank,
    static_shape,
)
from qcompile.passes.rewrite import NodePass

_FORMS = (("_kn",), ("_kn", "_wide"), ("_wide", "_kn"))  # what other passes derive from codes


class MoveGatherToTransposedCodes(NodePass):
    """Tables [N, K] of target ort; columns beyond N are zeros that nothing gathers."""

    stage = "lower"
    op_types = ("Gather",)

    def match(self, node: ir.Node) -> ir.Value | str | None:
        """The codes [K, N or more]."""
        codes, indices = node.inputs
        if codes is None or codes.const_value is None or rank(indices) is None:
            return None
        assert isinstance(node.graph, ir.Graph)
        found = _transposed(node.graph, codes)
        if found is None or rank(codes) != 2 or attribute(node, "axis", 0) != 0:
            return None
        if not all(is_op(use.node, "Gather") for use in codes.uses()):
            return "something else reads the codes as they are"
        return found

    def rewrite(self, node: ir.Node, found: ir.Value) -> None:
        """Columns, and the order of the table again."""
        graph, (codes, indices), out = node.graph, node.inputs, node.outputs[0]
        assert isinstance(graph, ir.Graph) and codes is not None and indices is not None
        inserted: list[ir.Node] = []
        n, wide = (static_shape(codes) or ())[0], (static_shape(found) or ())[1]
        if wide != n:
            inserted += _from_the_front(graph, node, indices, n)
            indices = inserted[-1].outputs[0]
        name, dtype = out.name or "", out.dtype or ir.DataType.INT8
        columns = new_node(
            "Gather", [found, indices], node.name or "", f"{name}_columns", dtype=dtype, axis=1
        )
        perm = [*range(1, 1 + (rank(indices) or 0)), 0]
        turned = new_node(
            "Transpose",
            columns.outputs,
            f"{node.name}/transpose",
            f"{name}_rows",
            dtype=dtype,
            shape=out.shape,
            perm=perm,
        )
        graph.insert_before(node, [*inserted, columns, turned])
        out.replace_all_uses_with(turned.outputs[0])
        graph.remove(node, safe=True)


def _transposed(graph: ir.Graph, codes: ir.Value) -> ir.Value | None:
    """The codes in another form, if a node reads them in one."""
    forms = [(codes, steps) for steps in _FORMS]
    read = (v for v in graph.initializers.values() if v.uses())
    return next((v for v in read if derivation(v) in forms), None)


def _from_the_front(graph: ir.Graph, node: ir.Node, indices: ir.Value, n: int) -> list[ir.Node]:
    """Indices that count from the end, −N … −1, counted from the front.

    What lies outside is still refused: by the Gather of the N scales.
    """
    dtype, label = indices.dtype or ir.DataType.INT64, f"{node.name}/front"
    zero, count = (
        add_initializer(graph, f"{label}_{what}", np.array(number, dtype.numpy()))
        for what, number in (("zero", 0), ("count", n))
    )
    shape = indices.shape
    less = new_node(
        "Less",
        [indices, zero],
        f"{label}_less",
        f"{label}_less",
        dtype=ir.DataType.BOOL,
        shape=shape,
    )
    added = new_node(
        "Add", [indices, count], f"{label}_add", f"{label}_added", dtype=dtype, shape=shape
    )
    chosen = new_node(
        "Where",
        [less.outputs[0], added.outputs[0], indices],
        f"{label}_where",
        f"{label}_indices",
        dtype=dtype,
        shape=shape,
    )
    return [less, added, chosen]
