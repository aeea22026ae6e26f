# SPDX-License-Identifier: Apache-2.0
"""Lower a dynamic 8-bit Conv or product to ONNX's own ConvInteger or MatMulInteger.

Before:
    { y = Conv (dynamic (x), w_dequantized, b) }
After:
    { q, s, z = DynamicQuantizeLinear (x)   i = ConvInteger (q, w_codes, z)   f = Cast (i)
      y = Mul (f, Mul (s, w_scale)) + b }
Refuses: static or float activations; block scales; codes below 8 bits.

DynamicQuantizeLinear has one uint8 scale a tensor, not one a row or sample (N4): a sample's result
depends on its batch. The manifest says so.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    add_initializer,
    derived_initializer,
    input_of,
    is_op,
    new_node,
    remove_dead,
    replace,
)
from qcompile.passes.lower.qdq import Dynamic, Weight, dynamic_of, weight_codes_of
from qcompile.passes.normalise.move_transpose_out_of_weight import transposed
from qcompile.passes.rewrite import NodePass


class LowerProductIntoIntegerOp(NodePass):
    """Conv, MatMul and Gemm with one scale an output."""

    stage = "lower"
    op_types = ("Conv", "MatMul", "Gemm")

    def __init__(self) -> None:
        super().__init__()
        self._quantized: dict[str, ir.Node] = {}

    def match(self, node: ir.Node) -> tuple[Weight, Dynamic] | None:
        """The weight and the float activation."""
        weight, dynamic = weight_codes_of(node.inputs[1]), dynamic_of(node.inputs[0])
        if weight is None or dynamic is None or weight.spec.granularity == "block":
            return None
        return weight, dynamic

    def rewrite(self, node: ir.Node, found: tuple[Weight, Dynamic]) -> None:
        """The integer op between DynamicQuantizeLinear and the scales."""
        weight, dynamic = found
        graph, out, name = node.graph, node.outputs[0], node.name or ""
        assert isinstance(graph, ir.Graph)
        quantize = self._quantize(graph, node, dynamic.source)
        codes, x_scale, zero_point = quantize.outputs
        op_type = "ConvInteger" if is_op(node, "Conv") else "MatMulInteger"
        int32, shape = ir.DataType.INT32, out.shape
        inputs = [codes, self._codes(graph, node, weight), zero_point]
        product = new_node(op_type, inputs, name, f"{name}_sum", dtype=int32, shape=shape)
        if is_op(node, "Conv"):
            product.attributes.update(node.attributes)
        cast = new_node(
            "Cast",
            [product.outputs[0]],
            f"{name}/cast",
            f"{name}_float",
            shape=shape,
            to=int(ir.DataType.FLOAT),
        )
        w_scale = self._w_scale(graph, node, weight)
        scale = new_node("Mul", [x_scale, w_scale], f"{name}/scale", f"{name}_scale")
        scaled = new_node(
            "Mul",
            [cast.outputs[0], scale.outputs[0]],
            f"{name}/scaled",
            f"{name}_scaled",
            shape=shape,
        )
        inserted = [product, cast, scale, scaled]
        bias = input_of(node, 2) if is_op(node, "Conv", "Gemm") else None
        if bias is not None:
            shaped = self._bias(graph, node, bias)
            inserted.append(
                new_node(
                    "Add",
                    [scaled.outputs[0], shaped],
                    f"{name}/bias",
                    f"{name}_biased",
                    shape=shape,
                )
            )
        graph.insert_after(node, inserted)
        last, wanted = inserted[-1].outputs[0], out.name
        replace(out, last)
        remove_dead(graph, [node])
        last.name = wanted

    def _quantize(self, graph: ir.Graph, node: ir.Node, source: ir.Value) -> ir.Node:
        """DynamicQuantizeLinear, one a value."""
        name = source.name or ""
        if name not in self._quantized:
            quantize = ir.node(
                "DynamicQuantizeLinear", [source], num_outputs=3, name=f"{name}/dynamic"
            )
            suffixes = ("codes", "scale", "zero_point")
            types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            for value, suffix, dtype in zip(quantize.outputs, suffixes, types, strict=True):
                value.name, value.type = f"{name}_dynamic_{suffix}", ir.TensorType(dtype)
            graph.insert_before(node, quantize)
            self._quantized[name] = quantize
        return self._quantized[name]

    def _codes(self, graph: ir.Graph, node: ir.Node, weight: Weight) -> ir.Value:
        """Conv takes the codes as they are, MatMulInteger as [K, N]."""
        if is_op(node, "Conv"):
            return weight.codes
        return transposed_codes(graph, weight.codes)

    def _w_scale(self, graph: ir.Graph, node: ir.Node, weight: Weight) -> ir.Value:
        if not is_op(node, "Conv"):
            return weight.scale
        array = weight.scale.const_value
        assert array is not None
        spread = ir.LazyTensor(
            lambda: ir.tensor(np.ascontiguousarray(array.numpy().reshape(-1, 1, 1))),
            ir.DataType.FLOAT,
            ir.Shape([array.size, 1, 1]),
        )
        return add_initializer(graph, f"{node.name}_w_scale", spread)

    def _bias(self, graph: ir.Graph, node: ir.Node, bias: ir.Value) -> ir.Value:
        if not is_op(node, "Conv"):
            return bias
        assert bias.const_value is not None
        shaped = bias.const_value.numpy().reshape(-1, 1, 1)
        return add_initializer(graph, f"{node.name}_bias", shaped)


def transposed_codes(graph: ir.Graph, codes: ir.Value) -> ir.Value:
    """Codes [N, K] as an initializer [K, N]."""
    tensor = codes.const_value
    assert tensor is not None
    return derived_initializer(graph, codes, "_kn", lambda: transposed(tensor))
