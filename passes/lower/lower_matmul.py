# SPDX-License-Identifier: Apache-2.0
"""Lower a quantized MatMul or Gemm, with bias, Relu or Clip and requantization, to QMatMul.

Before:
    { t = Transpose (w_dequantized)   y = MatMul (x, t)   z = Add (y, b)   r = Relu (z) }
After:
    { r = com.qcompile.QMatMul <clip_min = 0.0> (x, w_codes, b, , w_scale, w_zero_point) }
Refuses: nothing. A product of static codes whose bias or weight is not made for that reads the
dequantized floats; one whose output does not become codes gives floats.
"""

from typing import Any

import onnx_ir as ir

from qcompile.graph import FLOAT, constant, input_of, is_op, only_consumer, remove_dead, replace
from qcompile.passes.lower.lowered import (
    block_scales,
    clip_attributes,
    matrix_codes,
    op,
    output_multiplier,
    remember,
    static_attributes,
    static_bias,
    weight_attributes,
)
from qcompile.passes.lower.qdq import (
    Dynamic,
    End,
    Static,
    Weight,
    bounds_of,
    dynamic_of,
    end_of,
    static_of,
    weight_codes_of,
)
from qcompile.passes.rewrite import NodePass
from qcompile.products import is_relu
from qcompile.step_tables import table_of_steps


class LowerMatmul(NodePass):
    """Static, dynamic and float activations."""

    stage = "lower"
    op_types = ("MatMul", "Gemm")

    def match(self, node: ir.Node) -> tuple[Weight, Static | Dynamic | None, End | None] | None:
        """The weight, the activations (None: float), and where the output becomes codes."""
        weight = weight_codes_of(node.inputs[1])
        if weight is None:
            return None
        static = static_of(node.inputs[0], by_step=True)
        bias, passed = self._bias(node)
        has_codes = bias is None or is_op(bias.producer(), "DequantizeLinear")
        if static is not None and has_codes and weight.spec.granularity != "block":
            end = end_of(passed[-1].outputs[0] if passed else node.outputs[0], by_step=True)
            return weight, static, end
        return weight, dynamic_of(node.inputs[0]), None

    def rewrite(
        self, node: ir.Node, found: tuple[Weight, Static | Dynamic | None, End | None]
    ) -> None:
        """QMatMul in place of all that fuses."""
        weight, activation, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        codes, n, k = matrix_codes(graph, weight)
        bias, passed = self._bias(node)
        out = passed[-1].outputs[0] if passed else node.outputs[0]
        attributes = weight_attributes(weight, n, k, has_scale=not isinstance(activation, Static))
        inputs: list[ir.Value | None]
        if isinstance(activation, Static):
            name = node.outputs[0].name or ""
            scale = output_multiplier(graph, name, activation, weight, end, n)
            inputs = [activation.codes, codes, static_bias(graph, name, bias, n), scale]
            inputs += [None, block_scales(graph, weight, n)[1]]
            attributes |= static_attributes(activation, end)
        else:
            attributes |= {"activation": "f32"} if activation is None else activation.attributes
            x = node.inputs[0] if activation is None else activation.source
            inputs = [x, codes, bias, None, *block_scales(graph, weight, n)]
        if end is not None:
            passed, out = [*passed, *end.passed], end.codes
        else:
            follower = only_consumer(out)
            if follower is not None and is_relu(follower):
                attributes |= clip_attributes(bounds_of(follower))
                passed, out = [*passed, follower], follower.outputs[0]
        self._place(node, inputs, out, passed, attributes, end)

    def _bias(self, node: ir.Node) -> tuple[ir.Value | None, list[ir.Node]]:
        """The bias, Gemm's own or that of the Add behind a MatMul, and the Add."""
        if is_op(node, "Gemm"):
            return input_of(node, 2), []
        adder = only_consumer(node.outputs[0])
        if adder is None or not is_op(adder, "Add"):
            return None, []
        other = next((v for v in adder.inputs if v is not node.outputs[0]), None)
        if other is None:
            return None, []
        back = other.producer()
        codes = back.inputs[0] if back is not None and is_op(back, "DequantizeLinear") else other
        is_known = constant(codes) is not None or table_of_steps(codes) is not None
        is_vector = is_known and codes is not None and len(codes.shape or ()) == 1
        dims = node.outputs[0].shape
        fits = is_vector and dims is not None and codes is not None and codes.shape == dims[-1:]
        return (other, [adder]) if fits else (None, [])

    def _place(
        self,
        node: ir.Node,
        inputs: list[ir.Value | None],
        out: ir.Value,
        passed: list[ir.Node],
        attributes: dict[str, Any],
        end: End | None,
    ) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        dtype = out.dtype or ir.DataType.FLOAT
        product = op("QMatMul", inputs, node.name or "", f"{out.name}_product", dtype, **attributes)
        if end is not None:
            assert inputs[0] is not None
            remember(product, [inputs[0]], end)
        else:
            product.metadata_props[FLOAT] = out.name or ""
        product.outputs[0].shape = out.shape
        product.outputs[0].metadata_props.update(out.metadata_props)
        graph.insert_after(passed[-1] if passed else node, product)
        name = out.name
        replace(out, product.outputs[0])
        remove_dead(graph, [node, *passed])
        product.outputs[0].name = name
