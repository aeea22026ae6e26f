# SPDX-License-Identifier: Apache-2.0
"""Split a BatchNormalization that no convolution took into a product and a sum by channel.

Before:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1] s = {3}, float[1] b = {1}, float[1] m = {2}, float[1] v = {4}>
    { y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) }
After:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1] y_factor = {1.5}, float[1,1,1] y_shift = {-2}>
    { y_scaled = Mul (x, y_factor)   y = Add (y_scaled, y_shift) }
Refuses: training mode; statistics that are not constant; an x of unknown rank.

The two fold into what comes before or after (fold_affine_into_product, fold_affine_into_next_conv),
and what is left is read by the int8 ops that scale and add. Both sides keep what the node knew of
them: x the mean and deviation that it was trained with, y the mean β and deviation |γ|.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, constant, is_constant, rank
from qcompile.passes.normalise.channel_statistics import keep, statistics_of
from qcompile.passes.normalise.rewiring import append, graph_of
from qcompile.passes.rewrite import NodePass


class SplitBatchNorm(NodePass):
    """Inference-mode BatchNormalization only."""

    stage = "normalise"
    op_types = ("BatchNormalization",)

    def match(self, node: ir.Node) -> int | str | None:
        """The rank of x, or why the node stays."""
        if attribute(node, "training_mode", 0):
            return "training mode"
        if not all(is_constant(v) for v in node.inputs[1:5]):
            return "a statistic is not constant"
        found = rank(node.inputs[0])
        return found if found is not None else "the rank of its input is not known"

    def rewrite(self, node: ir.Node, found: int) -> None:
        """Mul in its place, then Add."""
        graph, name = graph_of(node), node.outputs[0].name
        stored = constant(node.inputs[1])
        assert stored is not None
        gamma, beta, mean, var = (np.asarray(constant(v), np.float64) for v in node.inputs[1:5])
        factor = gamma / np.sqrt(var + float(attribute(node, "epsilon", 1e-5)))
        source = node.inputs[0]
        if source is not None and statistics_of(source) is None:
            keep(source, mean, np.sqrt(np.maximum(var, 0)))
        shape = (-1, *[1] * max(found - 2, 0))
        parts = [
            add_initializer(graph, f"{name}_{part}", array.astype(stored.dtype).reshape(shape))
            for part, array in (("factor", factor), ("shift", beta - mean * factor))
        ]
        node.op_type = "Mul"
        node.attributes.clear()
        node.resize_inputs(2)
        node.replace_input_with(1, parts[0])
        added = append(node, "Add", parts[1], suffix="scaled", shape=node.outputs[0].shape)
        keep(added.outputs[0], beta, gamma)
