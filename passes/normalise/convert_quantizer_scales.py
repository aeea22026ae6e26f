# SPDX-License-Identifier: Apache-2.0
"""Write a scale or zero point of one element, at QuantizeLinear or DequantizeLinear, as a scalar.

Before:
    f (float[2,3] x) => (uint8[2,3] y)
    <float[1] s = {0.5}, uint8[1] z = {8}>
    { y = QuantizeLinear (x, s, z) }
After:
    f (float[2,3] x) => (uint8[2,3] y)
    <float s_scalar = {0.5}, uint8 z_scalar = {8}>
    { y = QuantizeLinear (x, s_scalar, z_scalar) }
Refuses: a tensor of which one axis is quantized and has one element, as a weight [1, K].

torch's FakeQuantize, exported after quantization-aware training, writes vectors of one element,
which ONNX Runtime takes for one scale a tensor.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import constant, derived_initializer, input_of, is_constant, rank
from qcompile.passes.normalise.rewiring import graph_of
from qcompile.passes.rewrite import NodePass


class ConvertQuantizerScales(NodePass):
    """Activations of models that were trained in codes."""

    stage = "normalise"
    op_types = ("QuantizeLinear", "DequantizeLinear")

    def match(self, node: ir.Node) -> list[int] | str | None:
        """The inputs that become scalars."""
        found = [i for i in (1, 2) if is_constant(input_of(node, i)) and _is_one(input_of(node, i))]
        if not found:
            return None
        return "it is a weight" if is_constant(node.inputs[0]) else found

    def rewrite(self, node: ir.Node, found: list[int]) -> None:
        """The same numbers without their axis."""
        for index in found:
            value = node.inputs[index]
            assert value is not None
            tensor = ir.tensor(np.asarray(constant(value)).reshape(()))
            scalar = derived_initializer(graph_of(node), value, "_scalar", lambda t=tensor: t)  # type: ignore[misc]
            node.replace_input_with(index, scalar)


def _is_one(value: ir.Value | None) -> bool:
    array = constant(value)
    return rank(value) == 1 and array is not None and array.size == 1
