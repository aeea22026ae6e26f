# SPDX-License-Identifier: Apache-2.0
"""Fold the repetition of keys and values into attention, whose heads of q share them.

Before:
    { n = Unsqueeze (k, two)   e = Expand (n, copies)   r = Reshape (e, heads)
      t = Transpose <perm = [0, 1, 3, 2]> (r)   y = com.qcompile.QAttention (q, t, v) }
After:
    { t = Transpose <perm = [0, 1, 3, 2]> (k)   y = com.qcompile.QAttention (q, t, v) }
Refuses: heads that are not repeated each as often in a row (repeated_heads.py).
"""

import onnx_ir as ir

from qcompile.attention import ATTENTIONS
from qcompile.graph import DOMAIN, remove_dead
from qcompile.passes.lower.lowered import transpose
from qcompile.passes.rewrite import NodePass
from qcompile.repeated_heads import Repeated, before_repeats


class FoldRepeatIntoAttention(NodePass):
    """Grouped-query attention; k and v, and q of models that have it the other way round."""

    stage = "lower"
    op_types = ATTENTIONS
    domain = DOMAIN

    def match(self, node: ir.Node) -> dict[int, Repeated] | None:
        """The operands that are repeated, by their places."""
        operands = enumerate(node.inputs[:3])
        found = {i: before_repeats(v) for i, v in operands if v is not None}
        return {i: each for i, each in found.items() if each is not None} or None

    def rewrite(self, node: ir.Node, found: dict[int, Repeated]) -> None:
        """The operands as they were before, with the Transposes that followed."""
        graph, passed = node.graph, set()
        assert isinstance(graph, ir.Graph)
        for index, each in found.items():
            value = each.source
            if each.perm != sorted(each.perm):
                turned = transpose(value, tuple(each.perm), f"{node.inputs[index].name}_shared")  # type: ignore[union-attr]
                graph.insert_before(node, [turned])
                value = turned.outputs[0]
            node.replace_input_with(index, value)
            passed |= set(each.nodes)
        remove_dead(graph, [each for each in graph if each in passed])
