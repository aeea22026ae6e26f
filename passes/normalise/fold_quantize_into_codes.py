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
Refuses: codes of types that no format here has, or of floats that do not saturate.

Training with simulated quantization exports weights so. The codes are those that QuantizeLinear
makes (N2): integers, or floats of 8 bits to the nearest, a tie to the even mantissa, the largest
finite one at most; with one scale, one an index of an axis, or one a block.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import qcompile.formats as formats
from qcompile.decoded_copy import spread
from qcompile.formats.onnx_types import FORMAT_OF_TYPE
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

_FLOATS = ("FLOAT8E4M3FN", "FLOAT8E5M2")  # that ONNX Runtime quantizes to


class FoldQuantizeIntoCodes(NodePass):
    """Constants only."""

    stage = "normalise"
    op_types = ("QuantizeLinear",)

    def match(self, node: ir.Node) -> ir.DataType | str | None:
        """The codes' type."""
        source, scale, point = node.inputs[0], node.inputs[1], input_of(node, 2)
        if not is_constant(source) or not is_constant(scale):
            return None
        if point is not None and not is_constant(point):
            return "its zero point is computed at run time"
        kind = _kind(node)
        form = FORMAT_OF_TYPE.get(kind.name)
        if form is None or (formats.get(form).is_table and kind.name not in _FLOATS):
            return f"codes of {kind}"
        if attribute(node, "precision", 0) not in (0, int(ir.DataType.FLOAT)):
            return "its division is not that of float32"
        if formats.get(form).is_table and not attribute(node, "saturate", 1):
            return f"codes of {kind} that do not saturate"
        return kind

    def rewrite(self, node: ir.Node, found: ir.DataType) -> None:
        """An initializer computed when it is read."""
        kind, graph = found, node.graph
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

        axis, size = int(attribute(node, "axis", 1)), int(attribute(node, "block_size", 0))

        def codes() -> ir.TensorProtocol:
            real = np.asarray(tensor.numpy(), np.float32)
            scales, points = (np.asarray(constant(v) if v else 0) for v in (scale, point))
            if points.size == 1 and not size:
                points = points.reshape(())
            scales, points = (
                spread(v, real.shape, axis % max(real.ndim, 1), size if v.ndim else 0)
                for v in (scales, points)
            )
            return ir.tensor(_codes(real, scales, points, kind, low, high), dtype=kind)

        lazy = ir.LazyTensor(codes, kind, ir.Shape(tensor.shape.numpy()))
        stored = add_initializer(graph, f"{source.name}_codes", lazy)
        replace(end, stored)
        remove_dead(graph, passed)


def _kind(node: ir.Node) -> ir.DataType:
    """The type of the codes."""
    point, asked = input_of(node, 2), attribute(node, "output_dtype", 0)
    if asked:
        return ir.DataType(asked)
    return ir.DataType.UINT8 if point is None or point.dtype is None else point.dtype


def _codes(
    real: NDArray[np.float32],
    scales: NDArray,
    points: NDArray,
    kind: ir.DataType,
    low: int,
    high: int,
) -> NDArray:
    """What QuantizeLinear makes, clipped to low … high where they are integers."""
    form, dtype = formats.get(FORMAT_OF_TYPE[kind.name]), kind.numpy()
    if not form.is_table:
        made = quantize(real, scales, points.astype(np.int64), form, symmetric=False)
        return np.asarray(np.clip(made, low, high).astype(dtype))
    largest = np.float32(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    with np.errstate(over="ignore"):
        ratio = np.divide(real, scales, dtype=np.float32)
    return np.asarray(np.clip(ratio, -largest, largest).astype(dtype))
