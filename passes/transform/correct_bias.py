# SPDX-License-Identifier: Apache-2.0
"""Correct the bias of quantized products for the mean error that rounding the weights makes.

Before:
    { y = Conv (x, w, b) }                with E[x] known from calibration
After:
    { y = Conv (x, w, b_corrected) }      b_corrected = b − E[(Ŵ − W) x]
Refuses: no calibration data; MatMul and Gather, which have no bias input.

Nagel et al. 2019 (Data-Free Quantization, section 4.2) with the mean input taken from data; for a
Conv the mean patch, border included. Ŵ is what round_weights writes.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, constant, input_of
from qcompile.numerics.conv import patches
from qcompile.observers.weight_range import code_weight
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.passes.transform.stats import Work
from qcompile.products import weight_of, window_of

CORRECTED = "qcompile.bias_corrected"


class CorrectBias(NodePass):
    """Conv and Gemm with calibrated input means."""

    stage = "transform"
    op_types = ("Conv", "Gemm")

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def match(self, node: ir.Node) -> NDArray[np.float64] | str | None:
        """The mean input, or why there is no correction."""
        plan = self.work.plan.nodes.get(node.name or "")
        if plan is None or not plan.is_quantized or node.inputs[0] is None:
            return None
        bias = input_of(node, 2)
        if bias is not None and bias.meta.get(CORRECTED):
            return "corrected already"
        mean = self.work.stats.means.get(node.inputs[0].name or "")
        return "no calibration data" if mean is None else mean

    def rewrite(self, node: ir.Node, found: NDArray[np.float64]) -> None:
        """New bias; a Conv or Gemm without one gets one."""
        value = weight_of(node)
        plan = self.work.plan.nodes[node.name or ""]
        assert value is not None and value.const_value is not None and plan.weight is not None
        weight = as_matrix(value.const_value)
        method = scale_method(plan.weight, self.work.recipe.weight_scale_method)
        error = code_weight(weight, plan.weight, method).decode().astype(np.float64) - weight
        bias = constant(input_of(node, 2))
        old = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
        new = (old - mean_output(node, error, found)).astype(np.float32)
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        corrected = add_initializer(graph, f"{node.outputs[0].name}_bias", new)
        corrected.meta[CORRECTED] = True
        node.replace_input_with(2, corrected)


def mean_output(
    node: ir.Node, weight: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean output [N] with this weight [N, K] on inputs of mean [C, H, W], [C, 1, 1] or [K]."""
    if node.op_type == "Gemm":
        return weight @ mean
    value = weight_of(node)
    assert value is not None and value.shape is not None
    n, in_group, kh, kw = (int(d) for d in value.shape)  # type: ignore[arg-type]
    if mean.shape[1:] == (1, 1):
        patch = np.broadcast_to(mean, (len(mean), kh, kw))
    else:
        found = patches(mean.transpose(1, 2, 0)[None], window_of(node, (kh, kw)))
        patch = found.mean((0, 1, 2)).T.reshape(len(mean), kh, kw)
    group = len(mean) // in_group
    per_group = patch.reshape(group, 1, in_group * kh * kw)
    return (weight.reshape(group, n // group, -1) * per_group).sum(2).ravel()
