# SPDX-License-Identifier: Apache-2.0
"""Lower a Gather of rows of a quantized table to QGather.

Before:
    { y = Gather (w_dequantized, indices) }
After:
    { y = com.qcompile.QGather (indices, w_codes, , , w_scale, w_zero_point) }
Refuses: nothing; indices that are not int64 are cast.

Codes that a static product reads, whose multiplier holds the scales, are stored once: the QGather
has them as an input, (indices, w_codes, w_scale).
"""

import onnx_ir as ir

from qcompile.graph import DOMAIN, FLOAT, attribute, is_op, new_node, remove_dead, replace
from qcompile.passes.lower.lowered import (
    block_scales,
    matrix_codes,
    op,
    row_scales,
    weight_attributes,
)
from qcompile.passes.lower.qdq import Weight, weight_codes_of
from qcompile.passes.rewrite import NodePass


class LowerGather(NodePass):
    """Embeddings."""

    stage = "lower"
    op_types = ("Gather",)

    def match(self, node: ir.Node) -> Weight | None:
        """The table."""
        return weight_codes_of(node.inputs[0])

    def rewrite(self, node: ir.Node, found: Weight) -> None:
        """QGather in its place; other index types are cast first."""
        graph, indices = node.graph, node.inputs[1]
        assert isinstance(graph, ir.Graph) and indices is not None
        inserted: list[ir.Node] = []
        if indices.dtype != ir.DataType.INT64:
            int64 = ir.DataType.INT64
            name = f"{node.outputs[0].name}_indices"
            cast = new_node("Cast", [indices], f"{name}/cast", name, dtype=int64, to=int(int64))
            inserted, indices = [cast], cast.outputs[0]
        codes, n, k = matrix_codes(graph, found)
        is_shared = found.zero_point is None and _is_of_static_product(codes)
        inputs: list[ir.Value | None] = [indices, codes]
        if is_shared:
            inputs += [row_scales(graph, found, n)]
        else:
            inputs += [None, None, *block_scales(graph, found, n)]
        attributes = weight_attributes(found, n, k, has_scale=not is_shared)
        out = node.outputs[0]
        gather = op(
            "QGather", inputs, node.name or "", f"{out.name}_rows", ir.DataType.FLOAT, **attributes
        )
        gather.metadata_props[FLOAT] = out.name or ""
        gather.outputs[0].shape = out.shape
        graph.insert_before(node, [*inserted, gather])
        name = out.name or ""
        replace(out, gather.outputs[0])
        remove_dead(graph, [node])
        gather.outputs[0].name = name


def _is_of_static_product(codes: ir.Value) -> bool:
    """Static products have one scale an output, which their multipliers hold."""
    return any(
        is_op(use.node, "QMatMul", domain=DOMAIN) and attribute(use.node, "activation") == "static"
        for use in codes.uses()
    )
