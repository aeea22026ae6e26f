# SPDX-License-Identifier: Apache-2.0
"""Correct the bias of quantized products for the mean error that rounding the weights makes.

Before:
    { y = Conv (x, w, b) }                with E[x] known from calibration
After:
    { y = Conv (x, w, b_corrected) }      b_corrected = b − E[(Ŵ − W) x]
Refuses: no calibration data; MatMul without a constant vector added to it, or whose input a Conv
reads as maps of 1 × 1; what goes into Log or Sqrt; products with a low-rank part; Gather.

Nagel et al. 2019 (Data-Free Quantization, section 4.2) with the mean input taken from data; for a
Conv the mean patch, border included. Ŵ is what round_weights writes. The bias of a MatMul is the
constant of the Add after it.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, constant, input_of, is_op, only_consumer
from qcompile.numerics.conv import patches
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.code_store import CodeStore, as_matrix
from qcompile.passes.transform.stats import Work
from qcompile.poles import edge_of
from qcompile.products import end_of_bias, fused_end, weight_of, window_of

CORRECTED = "qcompile.bias_corrected"

_ERROR_ELEMENTS = 1 << 22  # of a weight in float64 at a time


class CorrectBias(NodePass):
    """Conv, Gemm, and MatMul with a constant Add after it, whose input means are calibrated."""

    stage = "transform"
    op_types = ("Conv", "Gemm", "MatMul")

    def __init__(self, work: Work, store: CodeStore) -> None:
        super().__init__()
        self.work, self.store = work, store

    def match(self, node: ir.Node) -> NDArray[np.float64] | str | None:
        """The mean input, or why there is no correction."""
        plan = self.work.plan.nodes.get(node.name or "")
        if plan is None or not plan.is_rounded or node.inputs[0] is None:
            return None
        if node.name in self.work.stats.low_rank:
            return "its low-rank part takes back the mean error, too"
        place = bias_place(node)
        if place is None:
            return "no bias"
        bias = input_of(*place)
        if bias is not None and bias.meta.get(CORRECTED):
            return "corrected already"
        edge = edge_of(fused_end(node))
        if edge is not None:
            return f"{edge.op_type} reads its result, which could become negative"
        mean = self.work.stats.means.get(node.inputs[0].name or "")
        if mean is None:
            return "no calibration data"
        if is_op(node, "Conv") or mean.ndim == 1:
            return mean
        if mean.shape[1:] == (1, 1):  # of maps of many sizes, perhaps: _Mean keeps no rows
            return "a Conv reads its input, too"
        return np.asarray(mean.mean((0, 1)))

    def rewrite(self, node: ir.Node, found: NDArray[np.float64]) -> None:
        """New bias; a Conv or Gemm without one gets one."""
        value, place = weight_of(node), bias_place(node)
        plan = self.work.plan.nodes[node.name or ""]
        assert value is not None and value.const_value is not None
        assert plan.weight is not None and place is not None
        name = value.name or ""
        self.store.add(name, value.const_value, plan.weight)
        coded, matrix = self.store.get(name), as_matrix(value.const_value)
        n, k = matrix.shape
        step = n if is_op(node, "Conv") else max(1, _ERROR_ELEMENTS // max(k, 1))
        added = [
            mean_output(node, coded.rows(rows).decode().astype(np.float64) - matrix[rows], found)
            for rows in (slice(i, i + step) for i in range(0, n, step))
        ]
        holder, index = place
        bias = constant(input_of(holder, index))
        old = np.zeros(n) if bias is None else bias.astype(np.float64)
        new = (old - np.concatenate(added)).astype(np.float32)
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        if len(holder.inputs) <= index:
            holder.resize_inputs(index + 1)
        corrected = add_initializer(graph, f"{node.outputs[0].name}_bias", new)
        corrected.meta[CORRECTED] = True
        holder.replace_input_with(index, corrected)


def bias_place(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node that holds a product's bias, or could, and which input it is."""
    if not is_op(node, "MatMul"):
        return node, 2
    adder = only_consumer(node.outputs[0])
    if adder is None or end_of_bias(node.outputs[0]) is None:
        return None
    return adder, 1 if adder.inputs[0] is node.outputs[0] else 0


def mean_output(
    node: ir.Node, weight: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean output [N] with this weight [N, K] on inputs of mean [C, H, W], [C, 1, 1] or [K]."""
    if not is_op(node, "Conv"):
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
