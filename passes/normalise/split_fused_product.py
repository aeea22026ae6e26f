# SPDX-License-Identifier: Apache-2.0
"""Split the fused products of ONNX Runtime's optimiser into a product and what it had swallowed.

Before:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w = {2}>
    { y = com.microsoft.FusedConv <activation = "Relu"> (x, w) }
After:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w = {2}>
    { y_product = Conv (x, w)   y = Relu (y_product) }
Refuses: an activation other than Relu, Tanh, Sigmoid, LeakyRelu, HardSigmoid and Clip; FusedMatMul
without a constant operand, or whose batch dimensions are turned.

FusedConv, FusedGemm and FusedMatMul; ONNX Runtime fuses again what stays float.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, input_of, is_constant, rank
from qcompile.passes.normalise.rewiring import (
    append,
    changed,
    dims,
    graph_of,
    prepend,
    swap,
    swapped,
)
from qcompile.passes.rewrite import NodePass

# Attributes of the ONNX op by activation, in the order of FusedConv's activation_params.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "": (),
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
_OWN = ("activation", "activation_params", "activation_alpha", "activation_beta")


class SplitFusedProduct(NodePass):
    """Ops of the domain com.microsoft."""

    stage = "normalise"
    op_types = ("FusedConv", "FusedGemm", "FusedMatMul", "TransposeMatMul")
    domain = "com.microsoft"

    def match(self, node: ir.Node) -> bool | str | None:
        """True, or why the node stays."""
        activation = str(attribute(node, "activation", ""))
        if activation not in _PARAMETERS:
            return f"its activation is {activation}"
        if not node.op_type.endswith("MatMul"):
            return True
        if not any(is_constant(v) for v in node.inputs):
            return "no operand is constant"
        if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
            return "its batch dimensions are turned"
        if any(rank(v) is None or (rank(v) or 0) < 2 for v in node.inputs):
            return "an operand is a vector, or its rank is not known"
        return True

    def rewrite(self, node: ir.Node, found: bool) -> None:
        """The ONNX op in its place, then the sum, then the activation."""
        activation, values = str(attribute(node, "activation", "")), _values(node)
        for name in _OWN:
            node.attributes.pop(name, None)
        is_matmul = node.op_type.endswith("MatMul")
        node.op_type = "MatMul" if is_matmul else node.op_type.removeprefix("Fused")
        node.domain = ""
        shape = node.outputs[0].shape
        if activation == "Clip":
            append(node, "Clip", *_bounds(node, values), suffix="product", shape=shape)
        elif activation:
            append(node, activation, suffix="product", shape=shape, **values)
        if is_matmul:
            _split_matmul(node)
        added = input_of(node, 3)
        if added is not None:
            append(node, "Add", added, suffix="sum", shape=shape)
        if len(node.inputs) > 3:
            node.resize_inputs(3)


def _values(node: ir.Node) -> dict[str, Any]:
    """The parameters of the activation by ONNX's names."""
    names = _PARAMETERS[str(attribute(node, "activation", ""))]
    given = list(attribute(node, "activation_params", None) or [])
    for name in ("activation_alpha", "activation_beta"):
        if name in node.attributes:
            given.append(attribute(node, name))
    return {name: float(value) for name, value in zip(names, given, strict=False)}


def _bounds(node: ir.Node, values: dict[str, float]) -> list[ir.Value | None]:
    """Clip's bounds as constants."""
    dtype: Any = (node.outputs[0].dtype or ir.DataType.FLOAT).numpy()
    graph, name = graph_of(node), node.outputs[0].name
    return [
        add_initializer(graph, f"{name}_{key}", np.array(values[key], dtype))
        if key in values
        else None
        for key in ("min", "max")
    ]


def _split_matmul(node: ir.Node) -> None:
    """transA and transB as Transpose; alpha into the constant operand."""
    alpha = float(attribute(node, "alpha", 1.0))
    turns = [attribute(node, name, 0) for name in ("transA", "transB")]
    node.attributes.clear()
    at = 1 if is_constant(node.inputs[1]) else 0
    weight = node.inputs[at]
    assert weight is not None
    if alpha != 1.0:
        scaled = changed(weight, dims(weight), lambda w: w * w.dtype.type(alpha))
        node.replace_input_with(
            at, add_initializer(graph_of(node), f"{weight.name}_scaled", scaled)
        )
    for i, is_turned in enumerate(turns):
        value = node.inputs[i]
        assert value is not None
        if is_turned:
            perm = swap(rank(value) or 0)
            prepend(node, i, "Transpose", suffix="turned", shape=swapped(value.shape), perm=perm)
