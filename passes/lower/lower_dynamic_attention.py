# SPDX-License-Identifier: Apache-2.0
"""Lower the attention of floats to QDynamicAttention, which makes codes of q, k and v itself.

Before:
    { s = MatMul (q, k)   p = Softmax (s)   y = MatMul (p, v) }
After:
    { y = com.qcompile.QDynamicAttention (q, k, v) }
Refuses: attention that the plan leaves in float.

Factors, a mask that is added and torch's guard against rows that see nothing are inside.
"""

import numpy as np
import onnx_ir as ir

from qcompile.attention import MARK, Attention, attention_at
from qcompile.graph import FLOAT, is_constant, remove_dead, replace
from qcompile.passes.lower.lowered import op
from qcompile.passes.rewrite import NodePass


class LowerDynamicAttention(NodePass):
    """Two products of activations and the Softmax between them, a head at a time."""

    stage = "lower"
    op_types = ("MatMul",)

    def match(self, node: ir.Node) -> Attention | str | None:
        """The attention, where it is marked."""
        return attention_at(node) if MARK in node.metadata_props else None

    def rewrite(self, node: ir.Node, found: Attention) -> None:
        """QDynamicAttention in place of all that it is."""
        graph, out = node.graph, found.output
        assert isinstance(graph, ir.Graph)
        name = out.name or ""
        made = op(
            "QDynamicAttention",
            [*found.operands, found.mask],
            node.name or "",
            f"{name}_attended",
            ir.DataType.FLOAT,
            multiplier=float(np.float32(found.scale)),
        )
        result = made.outputs[0]
        is_run_time = found.mask is not None and not is_constant(found.mask)
        sources = [*found.operands, *([found.mask] if is_run_time else [])]
        made.metadata_props["qcompile.inputs"] = "\n".join(v.name or "" for v in sources if v)
        made.metadata_props["qcompile.output"] = name
        made.metadata_props[FLOAT] = name
        result.shape = out.shape
        result.metadata_props.update(out.metadata_props)
        graph.insert_after(node, [made])
        replace(out, result)
        remove_dead(graph, found.inside)
        result.name = name
