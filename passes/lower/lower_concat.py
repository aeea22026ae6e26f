# SPDX-License-Identifier: Apache-2.0
"""Lower a Concat of quantized tensors to a Concat of their codes.

Before:
    { y = Concat (DequantizeLinear (a_codes), DequantizeLinear (b_codes))
      y_codes = QuantizeLinear (y) }
After:
    { b_same = com.qcompile.QLut (b_codes, table)   y_codes = Concat (a_codes, b_same) }
Refuses: an input or the output is not quantized.

Codes of the output's scale are copied; those of another one are requantized by a table (N25).
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import new_node, remove_dead, replace
from qcompile.numerics.lut import CODES, reals_of_codes, table_of
from qcompile.passes.lower.lower_function import table_node
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerConcat(NodePass):
    """Any axis, any number of inputs."""

    stage = "lower"
    op_types = ("Concat",)

    def match(self, node: ir.Node) -> tuple[list[Static], End] | str | None:
        """The codes of all inputs and of the output."""
        statics = [static_of(v) for v in node.inputs]
        found = [s for s in statics if s is not None]
        if not found:
            return None
        if len(found) < len(statics):
            return "one of its inputs is not quantized"
        end = end_of(node.outputs[0])
        return (found, end) if end is not None else "its output does not become codes"

    def rewrite(self, node: ir.Node, found: tuple[list[Static], End]) -> None:
        """Concat of codes that mean the same numbers."""
        statics, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        out = end.codes
        name, made, inputs = out.name or "", [], []
        for index, static in enumerate(statics):
            reals = reals_of_codes(static.scale, static.zero_point)
            table = table_of(reals, end.scale, end.zero_point, end.y_min, end.y_max)
            if np.array_equal(table, CODES) or _is_same(static, end):
                inputs.append(static.codes)
                continue
            label = f"{name}_part_{index}"
            made.append(table_node(graph, static.codes, table, f"{node.name}/part_{index}", label))
            inputs.append(made[-1].outputs[0])
        concat = new_node(
            "Concat", inputs, node.name or "", f"{name}_parts", dtype=ir.DataType.UINT8
        )
        concat.attributes.update(node.attributes)
        concat.outputs[0].shape = out.shape
        concat.outputs[0].metadata_props.update(out.metadata_props)
        graph.insert_after(end.passed[-1], [*made, concat])
        replace(out, concat.outputs[0])
        remove_dead(graph, [*(s.back for s in statics), node, *end.passed])
        concat.outputs[0].name = name


def _is_same(static: Static, end: End) -> bool:
    """Codes of fewer than 8 bits: one scale, and none above the highest (their spec says so)."""
    specs = [v.metadata_props.get("qcompile.spec") for v in (static.codes, end.codes)]
    same = (static.scale, static.zero_point) == (end.scale, end.zero_point)
    return same and specs[0] is not None and specs[0] == specs[1]
