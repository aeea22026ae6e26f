# SPDX-License-Identifier: Apache-2.0
"""Lower the float multipliers of int8 ops to dyadic numbers, so that no float is left among codes.

Before:
    { y_codes = com.qcompile.QMatMul (x_codes, w, b, multiplier)
      y = com.qcompile.QMatMul <output = "f32"> (y_codes, w, b, multiplier) }
After:
    { y_codes = com.qcompile.QMatMul <requantize = "dyadic"> (x_codes, w, b, m_e)
      y_int32 = com.qcompile.QMatMul <requantize = "dyadic", output = "i32"> (y_codes, w, b, m_e)
      y = DequantizeLinear (y_int32, scale) }
Refuses: products of dynamic or float activations; ops whose inside is float.

HAWQ-V3 (Yao et al. 2021, section 3). A sum of codes rounds once instead of once a branch (N18).
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import DOMAIN, FLOAT, add_initializer, attribute, constant, new_node, replace
from qcompile.numerics.dyadic import INT32, as_operand, as_ratios
from qcompile.passes.lower.lowered import MULTIPLIER
from qcompile.passes.rewrite import NodePass

PRODUCTS = ("QConv", "QMatMul")


class LowerRequantizeIntoDyadic(NodePass):
    """Products, sums and averages of static codes."""

    stage = "lower"
    domain = DOMAIN
    op_types = (*PRODUCTS, "QAdd", "QMul", "QPool", "QResize")

    def match(self, node: ir.Node) -> bool | str | None:
        """True where the op has a dyadic form that it does not use."""
        if "requantize" in node.attributes or attribute(node, "mode") == "max":
            return None
        if node.op_type in PRODUCTS and attribute(node, "activation") != "static":
            return f"its activations are {attribute(node, 'activation')}"
        return "it interpolates in float" if node.op_type == "QResize" else True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """The attribute, and the multiplier of a product as int32 [2, N]."""
        node.attributes["requantize"] = ir.AttrString("requantize", "dyadic")
        if node.op_type not in PRODUCTS:
            return
        graph, value = node.graph, node.inputs[MULTIPLIER]
        assert isinstance(graph, ir.Graph) and value is not None
        multiplier = constant(value)
        assert multiplier is not None
        if attribute(node, "output") == "f32":
            operand, scale = as_ratios(multiplier)
            _give_int32(graph, node, scale)
        else:
            operand = as_operand(multiplier)
        made = add_initializer(graph, f"{value.name}_dyadic", operand)
        node.replace_input_with(MULTIPLIER, made)


def _give_int32(graph: ir.Graph, node: ir.Node, scale: np.float32) -> None:
    """The product's output as int32, and a DequantizeLinear that gives the floats."""
    bounds = {"y_min": ("clip_min", -np.inf), "y_max": ("clip_max", np.inf)}
    for name, (old, absent) in bounds.items():
        bound = np.rint(float(attribute(node, old, absent)) / float(scale))
        node.attributes.pop(old, None)
        node.attributes[name] = ir.AttrInt64(name, int(np.clip(bound, *INT32)))
    node.attributes["output"] = ir.AttrString("output", "i32")
    out = node.outputs[0]
    name = out.name or ""
    factor = add_initializer(graph, f"{name}_scale", np.array(scale, np.float32))
    back = new_node(
        "DequantizeLinear",
        [out, factor],
        f"{name}/dequantize",
        f"{name}_dequantized",
        shape=out.shape,
    )
    back.outputs[0].metadata_props.update(out.metadata_props)
    graph.insert_after(node, back)
    replace(out, back.outputs[0])
    back.replace_input_with(0, out)
    out.name, back.outputs[0].name = f"{name}_int32", name
    out.type = ir.TensorType(ir.DataType.INT32)
    node.metadata_props[FLOAT] = node.metadata_props.get(FLOAT, name)
    node.metadata_props["qcompile.scale"] = repr(float(scale))
    node.metadata_props["qcompile.zero_point"] = "0"
