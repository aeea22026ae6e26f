# SPDX-License-Identifier: Apache-2.0
"""Lower a product with float activations or block scales to com.microsoft MatMulNBits.

Before:
    { t = Transpose (w_dequantized)   y = MatMul (x, t) }
After:
    { y = com.microsoft.MatMulNBits <accuracy_level = 0> (x, B, scales, zero_points) }
Refuses: one scale a row with static activations, which ORT fuses, or with dynamic ones, which
lower_product_into_integer_op takes.

accuracy_level is always written: 0 keeps activations in float, 4 lets ORT quantize them to int8 by
block (its own dynamic quantization, not that of N4).
"""

import onnx_ir as ir

from qcompile.graph import input_of, is_op, new_node, remove_dead, replace
from qcompile.passes.lower.nbits import nbits_of
from qcompile.passes.lower.qdq import Dynamic, Weight, dynamic_of, static_of, weight_codes_of
from qcompile.passes.rewrite import NodePass


class LowerMatmulIntoMatmulNbits(NodePass):
    """MatMul and Gemm."""

    stage = "lower"
    op_types = ("MatMul", "Gemm")

    def match(self, node: ir.Node) -> tuple[Weight, Dynamic | None] | None:
        """The weight and the activation."""
        weight, dynamic = weight_codes_of(node.inputs[1]), dynamic_of(node.inputs[0])
        if weight is None:
            return None
        is_static = static_of(node.inputs[0]) is not None
        if (dynamic is not None or is_static) and weight.spec.granularity != "block":
            return None
        return weight, dynamic

    def rewrite(self, node: ir.Node, found: tuple[Weight, Dynamic | None]) -> None:
        """MatMulNBits, and an Add for Gemm's bias."""
        weight, dynamic = found
        graph, out = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        nbits = nbits_of(graph, weight)
        x = node.inputs[0] if dynamic is None else dynamic.source
        product = new_node(
            "MatMulNBits",
            [x, nbits.B, nbits.scale, nbits.zero_point],
            node.name or "",
            f"{out.name}_product",
            domain="com.microsoft",
            shape=out.shape,
            K=nbits.K,
            N=nbits.N,
            bits=nbits.bits,
            block_size=nbits.block_size,
            accuracy_level=0 if dynamic is None else 4,
        )
        inserted, last = [product], product.outputs[0]
        bias = input_of(node, 2) if is_op(node, "Gemm") else None
        if bias is not None:
            adder = new_node(
                "Add", [last, bias], f"{node.name}/bias", f"{out.name}_sum", shape=out.shape
            )
            inserted, last = [product, adder], adder.outputs[0]
        graph.insert_after(node, inserted)
        name = out.name
        replace(out, last)
        remove_dead(graph, [node])
        last.name = name
        graph.opset_imports.setdefault("com.microsoft", 1)
