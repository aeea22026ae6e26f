# SPDX-License-Identifier: Apache-2.0
"""Fold the QuantizeLinear of a constant, and a Clip of its codes, into codes that are stored.

Before:
    f (float[1] x) => (float[1] y)
    <float[1] w = {0.5}, float s = {0.25}, int8 z = {0}>
    { c = QuantizeLinear (w, s, z)   r = DequantizeLinear (c, s, z)   y = Mul (x, r) }
After:
    f (float[1] x) => (float[1] y)
    <int8[1] w_codes = {2}, float s = {0.25}, int8 z = {0}>
    { r = DequantizeLinear (w_codes, s, z)   y = Mul (x, r) }
Refuses: codes that are no int8 or uint8; blocks.

Training with simulated quantization exports weights so. The codes are those that QuantizeLinear
makes (N2).
"""

import numpy as np
import onnx_ir as ir

import qcompile.formats as formats
from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    remove_dead,
    replace,
)
from qcompile.numerics.quantize import quantize
from qcompile.passes.rewrite import NodePass
from qcompile.products import code_bounds

_FORMATS = {np.dtype(np.int8): "int8", np.dtype(np.uint8): "uint8"}


class FoldQuantizeIntoCodes(NodePass):
    """Constants only."""

    stage = "normalise"
    op_types = ("QuantizeLinear",)

    def match(self, node: ir.Node) -> tuple[np.dtype, int] | str | None:
        """The codes' type and the axis of the scales."""
        source, scale, point = node.inputs[0], node.inputs[1], input_of(node, 2)
        if not is_constant(source) or not is_constant(scale):
            return None
        if point is not None and not is_constant(point):
            return "its zero point is computed at run time"
        dtype = np.dtype(np.uint8) if point is None else np.asarray(constant(point)).dtype
        if dtype not in _FORMATS or attribute(node, "block_size", 0):
            return f"codes of {dtype} in blocks of {attribute(node, 'block_size', 0)}"
        return dtype, int(attribute(node, "axis", 1))

    def rewrite(self, node: ir.Node, found: tuple[np.dtype, int]) -> None:
        """An initializer computed when it is read."""
        (dtype, axis), graph = found, node.graph
        source, scale, point = node.inputs[0], node.inputs[1], input_of(node, 2)
        assert isinstance(graph, ir.Graph) and source is not None and source.const_value is not None
        tensor, low, high = source.const_value, -128, 255
        end, passed = node.outputs[0], [node]
        uses = list(end.uses())
        clip = uses[0].node if len(uses) == 1 and is_op(uses[0].node, "Clip") else None
        if clip is not None and (bounds := code_bounds(clip, low, high)):
            low, high = bounds
            passed.append(clip)
            end = clip.outputs[0]

        def codes() -> ir.TensorProtocol:
            real = np.asarray(tensor.numpy(), np.float32)
            shape = [1] * real.ndim
            scales, points = (np.asarray(constant(v) if v else 0) for v in (scale, point))
            if scales.size > 1:
                shape[axis] = scales.size
                scales = scales.reshape(shape)
                points = np.broadcast_to(points.reshape(-1), scales.size).reshape(shape)
            made = quantize(real, scales, points, formats.get(_FORMATS[dtype]), symmetric=False)
            return ir.tensor(np.clip(made, low, high).astype(dtype))

        lazy = ir.LazyTensor(codes, ir.DataType.from_numpy(dtype), ir.Shape(tensor.shape.numpy()))
        stored = add_initializer(graph, f"{source.name}_codes", lazy)
        replace(end, stored)
        remove_dead(graph, passed)
