# SPDX-License-Identifier: Apache-2.0
"""Split com.microsoft EmbedLayerNormalization into its tables' Gathers and a LayerNormalization.

Before:
    f (uint8[1,2] u) => (float[1,2,2] y)
    <float[9,2] t = {0, 2, 1, 3, 2, 4, 3, 5, 4, 6, 5, 7, 6, 8, 7, 9, 8, 10},
     float[2,2] p = {0, 0, 1, 1}, float[2] g = {1, 1}, float[2] b = {0, 0}, int32[1,2] q = {0, 1}>
    { i = Cast <to = 6> (u)
      y, index = com.microsoft.EmbedLayerNormalization <epsilon = 0.0> (i, , t, p, , g, b, , q) }
After:
    f (uint8[1,2] u) => (float[1,2,2] y)
    <float[9,2] t = {0, 2, 1, 3, 2, 4, 3, 5, 4, 6, 5, 7, 6, 8, 7, 9, 8, 10},
     float[2,2] p = {0, 0, 1, 1}, float[2] g = {1, 1}, float[2] b = {0, 0}, int32[1,2] q = {0, 1}>
    { i = Cast <to = 6> (u)
      y_word = Gather (t, i)   y_position = Gather (p, q)   y_sum = Add (y_word, y_position)
      y = LayerNormalization <axis = -1, epsilon = 0.0> (y_sum, g, b) }
Refuses: an opset below 17, which has no LayerNormalization; a mask index that is read; positions
that are counted from an input of unknown length.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, input_of, is_constant, new_node
from qcompile.passes.normalise.rewiring import dims, give, graph_of
from qcompile.passes.rewrite import NodePass


class SplitEmbedLayerNorm(NodePass):
    """The word table is the largest weight of a small language model."""

    stage = "normalise"
    op_types = ("EmbedLayerNormalization",)
    domain = "com.microsoft"

    def match(self, node: ir.Node) -> bool | str | None:
        """True, or why the node stays."""
        graph = graph_of(node)
        if graph.opset_imports.get("", 0) < 17:
            return "opset 17 has the first LayerNormalization"
        if not all(is_constant(v) for v in node.inputs[2:5] if v is not None):
            return "a table is not constant"
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            return "its mask index is read"
        ids = node.inputs[0]
        length = ids.shape[1] if ids is not None and ids.shape is not None else None
        if input_of(node, 8) is None and not isinstance(length, int):
            return "its positions are counted from an input of unknown length"
        return True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """Rows, their sum, and the norm."""
        ids, kinds, _, _, _, gamma, beta = node.inputs[:7]
        assert ids is not None
        positions = input_of(node, 8)
        if positions is None and ids.shape is not None:
            order = np.arange(int(str(ids.shape[1])))
            name = f"{node.outputs[0].name}_positions"
            positions = add_initializer(graph_of(node), name, order)
        rows = [
            self._gather(node, index, indices, part)
            for index, indices, part in ((2, ids, "word"), (3, positions, "position"))
        ]
        if kinds is not None and node.inputs[4] is not None:
            rows.append(self._gather(node, 4, kinds, "segment"))
        total = rows[0]
        for i, row in enumerate(rows[1:]):
            last = i == len(rows) - 2
            total = self._insert(node, "Add", [total, row], "sum" if last else f"sum_{i}")
        end = self._insert(
            node,
            "LayerNormalization",
            [total, gamma, beta],
            "norm",
            axis=-1,
            epsilon=float(attribute(node, "epsilon", 1e-12)),
        )
        if len(node.outputs) > 2:
            give(node.outputs[2], total)
        give(node.outputs[0], end)
        graph_of(node).remove(node, safe=True)

    def _gather(self, node: ir.Node, index: int, ids: ir.Value | None, part: str) -> ir.Value:
        return self._insert(node, "Gather", [node.inputs[index], ids], part)

    def _insert(
        self,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        part: str,
        **attributes: Any,
    ) -> ir.Value:
        output, shape = node.outputs[0], None
        if op_type == "Gather" and inputs[1] is not None and inputs[1].shape is not None:
            shape = ir.Shape([*inputs[1].shape, dims(inputs[0])[1]])
        made = new_node(
            op_type,
            inputs,
            f"{node.name}/{part}",
            f"{output.name}_{part}",
            dtype=output.dtype or ir.DataType.FLOAT,
            shape=shape,
            **attributes,
        )
        graph_of(node).insert_before(node, made)
        return made.outputs[0]
