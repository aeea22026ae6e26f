# SPDX-License-Identifier: Apache-2.0
"""Split off Gemm what a product with a constant weight and a constant bias vector does not have.

Before:
    f (float[2,3] x) => (float[3,1] y)
    <float[1,2] w = {1, 2}, float[1,1] b = {3}>
    { y = Gemm <transA = 1, transB = 1, alpha = 2.0> (x, w, b) }
After:
    f (float[2,3] x) => (float[3,1] y)
    <float[1,2] w_scaled = {2, 4}, float[1] y_bias = {3}>
    { y_turned = Transpose <perm = [1, 0]> (x)
      y = Gemm <transB = 1> (y_turned, w_scaled, y_bias) }
Refuses: a weight that is not constant.

alpha goes into the weight, beta into the bias; a scalar or a [1, N] becomes [N]. A bias of another
shape, or one that is computed, is added after the product. A weight on the left is MatMul's, which
move_weight_to_right turns.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    input_of,
    is_constant,
    rank,
)
from qcompile.passes.normalise.rewiring import (
    append,
    changed,
    derived,
    dims,
    graph_of,
    prepend,
    swapped,
)
from qcompile.passes.rewrite import NodePass


class SplitGemm(NodePass):
    """alpha, beta, transA, and the bias."""

    stage = "normalise"
    op_types = ("Gemm",)

    def match(self, node: ir.Node) -> int | str | None:
        """The input that is the weight, or why there is none."""
        at = next((i for i in (1, 0) if is_constant(node.inputs[i])), None)
        if at is None:
            return "its weight is not constant"
        return None if at == 1 and not self._is_odd(node) else at

    def _is_odd(self, node: ir.Node) -> bool:
        bias = input_of(node, 2)
        scales = [attribute(node, name, 1.0) for name in ("alpha", "beta")]
        weight = node.inputs[1]
        num_outputs = dims(weight)[0 if attribute(node, "transB", 0) else 1]
        has_vector = bias is None or (is_constant(bias) and dims(bias) == (num_outputs,))
        return scales != [1.0, 1.0] or bool(attribute(node, "transA", 0)) or not has_vector

    def rewrite(self, node: ir.Node, found: int) -> None:
        """Scale, turn, then the bias."""
        _scale(node, found)
        if found == 0:
            _as_matmul(node)
            return
        if attribute(node, "transA", 0):
            x = node.inputs[0]
            shape = swapped(x.shape) if x is not None else None
            prepend(node, 0, "Transpose", suffix="turned", shape=shape, perm=[1, 0])
        node.attributes.pop("transA", None)
        bias, beta = _detach_bias(node)
        if bias is None:
            return
        weight = node.inputs[1]
        num_outputs = dims(weight)[0 if attribute(node, "transB", 0) else 1]
        array = constant(bias)
        if array is None or not _is_vector(array.shape, num_outputs):
            _add(node, bias, beta)
            return
        vector = np.broadcast_to(array.reshape(-1), (num_outputs,)) * array.dtype.type(beta)
        name = f"{node.outputs[0].name}_bias"
        node.resize_inputs(3)
        node.replace_input_with(2, add_initializer(graph_of(node), name, vector))


def _is_vector(shape: tuple[int, ...], num_outputs: int) -> bool:
    """Whether the bias has one value an output, or one for all."""
    return int(np.prod(shape)) == 1 or shape in ((num_outputs,), (1, num_outputs))


def _scale(node: ir.Node, at: int) -> None:
    """alpha into the weight."""
    alpha, weight = float(attribute(node, "alpha", 1.0)), node.inputs[at]
    node.attributes.pop("alpha", None)
    if alpha == 1.0 or weight is None:
        return
    scaled = changed(weight, dims(weight), lambda w: w * w.dtype.type(alpha))
    node.replace_input_with(at, add_initializer(graph_of(node), f"{weight.name}_scaled", scaled))


def _detach_bias(node: ir.Node) -> tuple[ir.Value | None, float]:
    """The bias and its factor, neither of them the node's any more."""
    bias, beta = input_of(node, 2), float(attribute(node, "beta", 1.0))
    node.attributes.pop("beta", None)
    if len(node.inputs) > 2:
        node.resize_inputs(2)
    return (None, 1.0) if beta == 0.0 else (bias, beta)


def _add(node: ir.Node, bias: ir.Value, beta: float) -> None:
    """A bias that is no vector is added after the product."""
    added = append(node, "Add", bias, suffix="product", shape=node.outputs[0].shape)
    if beta == 1.0:
        return
    dtype = (bias.dtype or ir.DataType.FLOAT).numpy()
    factor = np.array(beta, dtype)
    value = add_initializer(graph_of(node), f"{added.outputs[0].name}_beta", factor)
    prepend(added, 1, "Mul", value, suffix="bias", shape=bias.shape)


def _as_matmul(node: ir.Node) -> None:
    """Gemm with its weight on the left: MatMul of the turned operands, and Add."""
    for at, name in ((0, "transA"), (1, "transB")):
        source = node.inputs[at]
        assert source is not None
        if attribute(node, name, 0) and at == 0:
            size = dims(source)[::-1]
            node.replace_input_with(0, derived(node, source, "_turned", size, np.transpose))
        elif attribute(node, name, 0):
            turned = swapped(source.shape) if rank(source) == 2 else None
            prepend(node, at, "Transpose", suffix="turned", shape=turned, perm=[1, 0])
        node.attributes.pop(name, None)
    bias, beta = _detach_bias(node)
    node.op_type = "MatMul"
    if bias is not None:
        _add(node, bias, beta)
