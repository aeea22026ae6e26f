# SPDX-License-Identifier: Apache-2.0
"""Lower the attention of codes to QAttention.

Before:
    { s = MatMul (DequantizeLinear (q_codes), DequantizeLinear (k_codes))   p = Softmax (s)
      y = MatMul (p, DequantizeLinear (v_codes))   y_codes = QuantizeLinear (y) }
After:
    { y_codes = com.qcompile.QAttention (q_codes, k_codes, v_codes) }
Refuses: operands in float; the output does not become codes; an odd mask.

Factors of q, k and the scores, and a mask that is added to them, are inside (N30). The metadata of
the last MatMul may name a format of the weights (N43).
"""

import numpy as np
import onnx_ir as ir

from qcompile.attention import SOFTMAX_FORMAT, SOFTMAX_SHIFT, Attention, attention_at
from qcompile.graph import is_constant, remove_dead, replace
from qcompile.passes.lower.lowered import op, remember
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass

Found = tuple[Attention, list[Static], End]


class LowerAttention(NodePass):
    """Two products of activations and the Softmax between them, a head at a time."""

    stage = "lower"
    op_types = ("MatMul",)

    def match(self, node: ir.Node) -> Found | str | None:
        """The attention and the codes on both sides."""
        attention = attention_at(node)
        if attention is None or isinstance(attention, str):
            return attention if static_of(node.inputs[1]) is not None else None
        statics = [static_of(v) for v in attention.operands]
        if any(s is None for s in statics):
            is_any = any(s is not None for s in statics)
            return "not all of its operands are codes" if is_any else None
        end = end_of(attention.output)
        if end is None:
            return "its output does not become codes"
        return attention, [s for s in statics if s is not None], end

    def rewrite(self, node: ir.Node, found: Found) -> None:
        """QAttention in place of all that it is."""
        attention, (q, k, v), end = found
        graph, out = node.graph, end.codes
        assert isinstance(graph, ir.Graph)
        codes = [q.codes, k.codes, v.codes]
        inputs: list[ir.Value | None] = [*codes, attention.mask]
        form, shift = (node.metadata_props.get(key) for key in (SOFTMAX_FORMAT, SOFTMAX_SHIFT))
        made = op(
            "QAttention",
            inputs,
            node.name or "",
            f"{out.name}_attended",
            ir.DataType.UINT8,
            multiplier=float(np.float32(q.scale * k.scale * attention.scale)),
            y_multiplier=float(np.float32(v.scale / end.scale)),
            q_zero_point=q.zero_point,
            k_zero_point=k.zero_point,
            v_zero_point=v.zero_point,
            y_zero_point=end.zero_point,
            y_min=end.y_min,
            y_max=end.y_max,
            **({"softmax_format": form} if form is not None else {}),
            **({"softmax_shift": int(shift)} if shift not in (None, "0") else {}),
        )
        mask = [v for v in (attention.mask,) if v is not None and not is_constant(v)]
        remember(made, [*codes, *mask], end)
        result, name = made.outputs[0], out.name
        result.shape = out.shape
        result.metadata_props.update(out.metadata_props)
        graph.insert_after(end.passed[-1], [made])
        replace(out, result)
        remove_dead(graph, [*attention.inside, *end.passed])
        result.name = name
