# SPDX-License-Identifier: Apache-2.0
"""Fuse a product with a reciprocal into one division.

Before:
    f (float[2] x, float[2] d) => (float[2] y)
    <float four = {4}>
    { p = Clip (d, four, four)   r = Reciprocal (p)   y = Mul (x, r) }
After:
    f (float[2] x, float[2] d) => (float[2] y)
    <float four = {4}>
    { p = Clip (d, four, four)   y = Div (x, p) }
Refuses: a reciprocal with another reader, or of integers.

Exporters write RMSNorm as x · (1 / √…), which ONNX Runtime does not know; x / √… it fuses.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import constant, is_op, only_consumer
from qcompile.passes.normalise.rewiring import graph_of
from qcompile.passes.rewrite import NodePass


class FuseReciprocalIntoDiv(NodePass):
    """Reciprocal, or 1 divided by a value."""

    stage = "normalise"
    op_types = ("Mul",)

    def match(self, node: ir.Node) -> int | str | None:
        """Which input is the reciprocal, or why the product stays."""
        for at, value in enumerate(node.inputs):
            before = value.producer() if value is not None else None
            if value is None or before is None or _divisor(before) is None:
                continue
            if only_consumer(value) is None:
                return f"{value.name} has another reader"
            dtype = node.outputs[0].dtype
            return at if dtype is not None and dtype.is_floating_point() else "its type is no float"
        return None

    def rewrite(self, node: ir.Node, found: int) -> None:
        """Div in its place."""
        source, other = node.inputs[found], node.inputs[1 - found]
        before = source.producer() if source is not None else None
        assert before is not None
        divisor = _divisor(before)
        node.op_type = "Div"
        node.replace_input_with(0, other)
        node.replace_input_with(1, divisor)
        graph_of(before).remove(before, safe=True)


def _divisor(node: ir.Node) -> ir.Value | None:
    """What a reciprocal is of, where the node is one."""
    if is_op(node, "Reciprocal"):
        return node.inputs[0]
    one = constant(node.inputs[0]) if is_op(node, "Div") else None
    is_one = one is not None and one.size == 1 and one.ndim == 0 and bool(np.all(one == 1))
    return node.inputs[1] if is_one else None
