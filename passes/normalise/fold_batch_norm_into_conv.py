# SPDX-License-Identifier: Apache-2.0
"""Fold BatchNormalization into the Conv or Gemm before it.

W' = W·γ/σ, b' = (b − μ)·γ/σ + β, σ = √(v + ε).

Before:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w = {2}, float[1] s = {3}, float[1] b = {1}, float[1] m = {0}, float[1] v = {1}>
    { c = Conv (x, w)   y = BatchNormalization <epsilon = 0.0> (c, s, b, m, v) }
After:
    f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w_folded = {6}, float[1] c_bias = {1}>
    { y = Conv (x, w_folded, c_bias) }
Refuses: c has another reader; any of w, s, b, m, v is not constant; training mode; a Gemm whose
weight is [K, N] or whose beta is not 1.

The output of the convolution keeps what the node knew of it: mean β and deviation |γ|.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    is_op,
    only_consumer,
    replace,
)
from qcompile.passes.normalise.channel_statistics import keep
from qcompile.passes.rewrite import NodePass


class FoldBatchNormIntoConv(NodePass):
    """Inference-mode BatchNormalization only."""

    stage = "normalise"
    op_types = ("BatchNormalization",)

    def match(self, node: ir.Node) -> ir.Node | str | None:
        """The Conv or Gemm before the node, or why it cannot be folded."""
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        if source is None or before is None or not is_op(before, "Conv", "Gemm"):
            return None
        if only_consumer(source) is None:
            return f"{source.name} has another reader"
        if attribute(node, "training_mode", 0):
            return "training mode"
        if not all(is_constant(v) for v in [*node.inputs[1:], *before.inputs[1:]] if v is not None):
            return "a weight or a statistic is not constant"
        if is_op(before, "Gemm") and not attribute(before, "transB", 0):
            return "Gemm has its weight as [K, N]"
        if is_op(before, "Gemm") and attribute(before, "beta", 1.0) != 1.0:
            return "Gemm scales its bias"
        return before

    def rewrite(self, node: ir.Node, found: ir.Node) -> None:
        """New weight and bias; the node goes."""
        graph, weight, bias = node.graph, found.inputs[1], input_of(found, 2)
        assert isinstance(graph, ir.Graph) and weight is not None
        gamma, beta, mean, var = (np.asarray(constant(v), np.float64) for v in node.inputs[1:5])
        factor = gamma / np.sqrt(var + float(attribute(node, "epsilon", 1e-5)))
        stored = np.asarray(constant(weight))
        w, dtype = stored.astype(np.float64), stored.dtype
        b = np.zeros(len(mean)) if bias is None else np.asarray(constant(bias), np.float64)
        folded = (w * factor.reshape(-1, *[1] * (w.ndim - 1))).astype(dtype)
        shifted = ((b - mean) * factor + beta).astype(dtype)
        found.resize_inputs(3)
        found.replace_input_with(1, add_initializer(graph, f"{weight.name}_folded", folded))
        found.replace_input_with(
            2, add_initializer(graph, f"{found.outputs[0].name}_bias", shifted)
        )
        found.outputs[0].shape = node.outputs[0].shape
        replace(node.outputs[0], found.outputs[0])
        keep(found.outputs[0], beta, gamma)
        graph.remove(node, safe=True)
