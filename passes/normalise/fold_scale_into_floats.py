# SPDX-License-Identifier: Apache-2.0
"""Fold the scale of a weight in codes into float32: one of E8M0, or one in codes of its own.

Before:
    f (float[1,2] x) => (float[1,2] y)
    <int8[2] w = {1, 2}, uint8[2] c = {3, 4}, float s = {0.5}>
    { t = DequantizeLinear (c, s)   d = DequantizeLinear <axis = 0> (w, t)   y = Add (x, d) }
After:
    f (float[1,2] x) => (float[1,2] y)
    <int8[2] w = {1, 2}, float[2] t_scale = {1.5, 2}>
    { d = DequantizeLinear <axis = 0> (w, t_scale)   y = Add (x, d) }
Refuses: scales that are computed at run time.

MX formats have scales of E8M0, NVFP4 has scales of E4M3 in units of one float of the tensor. The
unit stands in the metadata (`qcompile.unit`), for scales may be stored in it again.
"""

import numpy as np
import onnx_ir as ir

from qcompile.decoded_copy import Stored, stored
from qcompile.graph import derived_initializer, is_constant, remove_dead
from qcompile.imported import UNIT
from qcompile.passes.normalise.rewiring import graph_of
from qcompile.passes.rewrite import NodePass


class FoldScaleIntoFloats(NodePass):
    """Of constants in DequantizeLinear."""

    stage = "normalise"
    op_types = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> Stored | str | None:
        """What the node reads."""
        scale = node.inputs[1]
        if scale is None or not is_constant(node.inputs[0]):
            return None
        if is_constant(scale) and scale.dtype != ir.DataType.FLOAT8E8M0:
            return None
        return stored(node) or "its scale is computed at run time"

    def rewrite(self, node: ir.Node, found: Stored) -> None:
        """The same scales as a constant, which is exact: E8M0 are powers of two."""
        scale, held = node.inputs[1], found.scale
        assert scale is not None

        def floats() -> ir.TensorProtocol:
            array = held.numbers() if isinstance(held, Stored) else held.numpy()
            return ir.tensor(np.ascontiguousarray(array, np.float32))

        value = derived_initializer(graph_of(node), scale, "_scale", floats)
        if isinstance(held, Stored) and not isinstance(held.scale, Stored):
            unit = held.scale.numpy()
            if unit.size == 1:
                value.metadata_props[UNIT] = repr(float(unit.reshape(())))
        producer = scale.producer()
        node.replace_input_with(1, value)
        if producer is not None:
            remove_dead(graph_of(node), [producer])
