# SPDX-License-Identifier: Apache-2.0
"""Split a product of activations quantized at run time into a float product of dequantized codes.

Before:
    f (float[1,1] x) => (float[1,1] y)
    <uint8[1,1] w = {3}, float ws = {0.5}, uint8 wz = {1}>
    { xq, xs, xz = DynamicQuantizeLinear (x)   i = MatMulInteger (xq, w, xz, wz)
      f = Cast <to = 1> (i)   s = Mul (xs, ws)   y = Mul (f, s) }
After:
    f (float[1,1] x) => (float[1,1] y)
    <uint8[1,1] w = {3}, float ws = {0.5}, uint8 wz = {1}>
    { _weight = DequantizeLinear (w, ws, wz)   y = MatMul (x, _weight) }
Refuses: integer products whose activations or scales come from elsewhere; stacks of matrices.

ConvInteger, and DynamicQuantizeMatMul and MatMulIntegerToFloat of com.microsoft, likewise. Their
one scale a tensor becomes one a row or sample (N4). The nodes behind stay for remove_unused.
"""

from dataclasses import dataclass, replace

import onnx_ir as ir

from qcompile.graph import (
    constant,
    derived_initializer,
    input_of,
    is_constant,
    is_op,
    new_node,
    only_consumer,
    rank,
    unique_name,
)
from qcompile.imported import ACTIVATION, DYNAMIC, MICROSOFT
from qcompile.passes.normalise.split_qlinear_op_into_qdq import take_place
from qcompile.passes.rewrite import NodePass


@dataclass(frozen=True)
class DynamicProduct:
    """The float input, the weight's codes, scale and zero point, a bias, and the last node."""

    x: ir.Value
    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    bias: ir.Value | None
    last: ir.Node


class SplitDynamicProduct(NodePass):
    """MatMul and Conv."""

    stage = "normalise"
    is_global = True  # of the main graph only: verify cannot cut a model inside its bodies
    op_types = ("MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The ops lie in two domains."""
        results = []
        for self.domain in ("", MICROSOFT):
            results.append(super().call(model).modified)
        return ir.passes.PassResult(model, any(results))

    def match(self, node: ir.Node) -> DynamicProduct | str | None:
        """The parts of the product, or what is not as usual."""
        found = _integer(node) if node.domain != MICROSOFT else _contributed(node)
        if isinstance(found, str):
            return found
        parts = (found.codes, found.scale, found.zero_point)
        if not all(v is None or is_constant(v) for v in parts):
            return "its weight, scale or zero point is computed at run time"
        size = rank(found.codes)
        if size not in ((3, 4) if is_op(node, "ConvInteger") else (2,)):
            return f"its weight has {size} dimensions; a matrix and 1-D or 2-D Conv have kernels"
        array = constant(found.scale)
        if is_op(node, "ConvInteger") and array is not None and array.size > 1:
            return "ConvInteger with several scales"
        return found

    def rewrite(self, node: ir.Node, found: DynamicProduct) -> None:
        """The dequantized weight and the float product."""
        graph, out = node.graph, found.last.outputs[0]
        assert isinstance(graph, ir.Graph)
        name = unique_name(graph, f"{node.name}_weight")
        inputs = [found.codes, found.scale]
        if found.zero_point is not None:
            inputs.append(found.zero_point)
        array = constant(found.scale)
        back = new_node(
            "DequantizeLinear",
            inputs,
            f"{name}/dequantize",
            name,
            shape=found.codes.shape,
        )
        if array is not None and array.size > 1:
            back.attributes["axis"] = ir.AttrInt64("axis", 1)
        op_type = "Conv" if is_op(node, "ConvInteger") else "MatMul"
        inputs = [found.x, back.outputs[0]]
        if found.bias is not None and op_type == "Conv":
            inputs.append(found.bias)
        product = new_node(op_type, inputs, node.name or "", out.name or "", shape=out.shape)
        product.attributes.update(node.attributes if op_type == "Conv" else {})
        product.metadata_props[ACTIVATION] = DYNAMIC
        made = [back, product]
        if found.bias is not None and op_type == "MatMul":
            product.outputs[0].name = unique_name(graph, f"{out.name}_product")
            inputs = [product.outputs[0], found.bias]
            made.append(
                new_node("Add", inputs, f"{node.name}/bias", out.name or "", shape=out.shape)
            )
        take_place(graph, found.last, made)


def _integer(node: ir.Node) -> DynamicProduct | str:
    """MatMulInteger or ConvInteger, its Cast and the product with both scales."""
    quantizer = _quantizer(node.inputs[0])
    if quantizer is None or input_of(node, 2) is not quantizer.outputs[2]:
        return "its activations do not come from DynamicQuantizeLinear"
    cast = only_consumer(node.outputs[0])
    scaled = only_consumer(cast.outputs[0]) if cast is not None else None
    if not is_op(cast, "Cast") or scaled is None or not is_op(scaled, "Mul"):
        return "its sums are not scaled by a Mul"
    assert cast is not None
    other = next((v for v in scaled.inputs if v is not cast.outputs[0]), None)
    factor = other.producer() if other is not None else None
    if factor is None or not is_op(factor, "Mul") or quantizer.outputs[1] not in factor.inputs:
        return "the scale is not that of its activations times that of its weight"
    scale = next((v for v in factor.inputs if v is not quantizer.outputs[1]), None)
    codes, x = node.inputs[1], quantizer.inputs[0]
    if scale is None or codes is None or x is None:
        return "the scale is not that of its activations times that of its weight"
    found = DynamicProduct(x, codes, scale, input_of(node, 3), None, scaled)
    return _with_bias(found) if is_op(node, "ConvInteger") else found


def _with_bias(product: DynamicProduct) -> DynamicProduct:
    """With the Add of a constant [1, N, 1, 1] behind a convolution as its bias [N]."""
    out = product.last.outputs[0]
    adder = only_consumer(out)
    if adder is None or not is_op(adder, "Add"):
        return product
    other = next((v for v in adder.inputs if v is not out), None)
    array, dims = constant(other), product.codes.shape
    if other is None or array is None or dims is None:
        return product
    graph = adder.graph
    if array.shape != (1, dims[0], 1, 1) or not isinstance(graph, ir.Graph):
        return product
    bias = derived_initializer(graph, other, "_vector", lambda: ir.tensor(array.reshape(-1)))
    return replace(product, bias=bias, last=adder)


def _contributed(node: ir.Node) -> DynamicProduct | str:
    """com.microsoft's products, whose inputs stand in another order."""
    if node.op_type == "DynamicQuantizeMatMul":
        x, codes, scale = node.inputs[:3]
        point, bias = input_of(node, 3), input_of(node, 4)
    else:
        quantizer = _quantizer(node.inputs[0])
        if quantizer is None or input_of(node, 2) is not quantizer.outputs[1]:
            return "its activations do not come from DynamicQuantizeLinear"
        x, codes, scale = quantizer.inputs[0], node.inputs[1], node.inputs[3]
        point, bias = input_of(node, 5), input_of(node, 6)
    if x is None or codes is None or scale is None or rank(codes) != 2:
        return "its weight is no matrix"
    return DynamicProduct(x, codes, scale, point, bias, node)


def _quantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if is_op(node, "DynamicQuantizeLinear") else None
