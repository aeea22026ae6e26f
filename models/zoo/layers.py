# SPDX-License-Identifier: Apache-2.0
"""The layers of the zoo, written as torch's exporter writes them, with seeded random weights.

A convolution's BatchNorm is folded into it, a linear layer is MatMul and Add (Gemm where its input
is a matrix), and attention is the exporter's decomposition of scaled_dot_product_attention.
"""

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

OPSET = 20  # torch's default; it has Gelu
IR_VERSION = 10
RELU_GAIN = 2.0  # He: half of the variance passes
GATED_GAIN = 4.0  # behind a gate of about 1/2, as squeeze and excite has


class Net:
    """A float model under construction: nodes in order, weights from a seeded generator."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tape = ir.tape.Tape()
        self.inputs: list[ir.Value] = []

    def input(self, name: str, *dims: int | str, dtype: str = "FLOAT") -> ir.Value:
        """A graph input; a dimension that is a word is free."""
        value = ir.val(name, ir.DataType[dtype], dims)
        self.inputs.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node with one output."""
        return self.tape.op(op_type, inputs, attributes)

    def split(self, x: ir.Value, parts: int, axis: int) -> list[ir.Value]:
        """Equal parts along an axis."""
        attributes = {"axis": axis, "num_outputs": parts}
        return list(self.tape.op_multi_out("Split", [x], attributes, num_outputs=parts))

    def constant(self, values: Any, dtype: Any = None) -> ir.Value:
        """An initializer; floats are float32 and integers int64 unless said otherwise."""
        array = np.asarray(values)
        kind = dtype or {"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype)
        name = f"weight_{len(self.tape.initializers)}"
        return self.tape.initializer(ir.tensor(array.astype(kind, copy=False), name=name))

    def normal(self, *shape: int, std: float, mean: float = 0.0) -> ir.Value:
        """An initializer of normal random floats."""
        values = self.rng.standard_normal(shape, dtype=np.float32)
        return self.constant(values * np.float32(std) + np.float32(mean))

    def model(self, **outputs: ir.Value) -> ir.Model:
        """The finished model; outputs are named by the keywords."""
        for name, value in outputs.items():
            value.name = name
        graph = ir.Graph(
            self.inputs,
            list(outputs.values()),
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": OPSET},
            name="main_graph",
        )
        model = ir.Model(graph, ir_version=IR_VERSION)
        common.ShapeInferencePass()(model)
        for value in outputs.values():
            value.dtype = value.dtype or ir.DataType.FLOAT
        return model

    def conv(
        self,
        x: ir.Value,
        ins: int,
        outs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        group: int = 1,
        gain: float = RELU_GAIN,
        pad: int | None = None,
        axes: int = 2,
    ) -> ir.Value:
        """Convolution over 1 or 2 axes; `pad` keeps the size unless given."""
        side = kernel // 2 if pad is None else pad
        k = ins // group * kernel**axes
        return self.op(
            "Conv",
            x,
            self.normal(outs, ins // group, *[kernel] * axes, std=math.sqrt(gain / k)),
            self.normal(outs, std=0.1),
            group=group,
            pads=[side] * (2 * axes),
            auto_pad="NOTSET",
            strides=[stride] * axes,
            dilations=[1] * axes,
            kernel_shape=[kernel] * axes,
        )

    def linear(
        self, x: ir.Value, ins: int, outs: int, *, gain: float = 1.0, bias: bool = True
    ) -> ir.Value:
        """MatMul with a weight [K, N], and Add."""
        y = self.op("MatMul", x, self.normal(ins, outs, std=math.sqrt(gain / ins)))
        return self.op("Add", y, self.normal(outs, std=0.1)) if bias else y

    def gemm(
        self, x: ir.Value, ins: int, outs: int, *, gain: float = 1.0, transposed: bool = True
    ) -> ir.Value:
        """Gemm of a matrix x; the weight is [N, K] where it is transposed, as torch stores it."""
        shape = (outs, ins) if transposed else (ins, outs)
        weight = self.normal(*shape, std=math.sqrt(gain / ins))
        bias = self.normal(outs, std=0.1)
        return self.op(
            "Gemm", x, weight, bias, alpha=1.0, beta=1.0, transA=0, transB=int(transposed)
        )

    def layer_norm(self, x: ir.Value, width: int, epsilon: float = 1e-5) -> ir.Value:
        """LayerNormalization over the last axis."""
        scale = self.normal(width, std=0.1, mean=1.0)
        bias = self.normal(width, std=0.1)
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon, stash_type=1)

    def rms_norm(self, x: ir.Value, width: int, epsilon: float = 1e-6) -> ir.Value:
        """x / sqrt(mean(x²) + epsilon) · scale, as its decomposition."""
        mean = self.mean(self.op("Pow", x, self.constant(2.0)), -1)
        root = self.op("Sqrt", self.op("Add", mean, self.constant(epsilon)))
        scale = self.normal(width, std=0.1, mean=1.0)
        return self.op("Mul", scale, self.op("Mul", x, self.op("Reciprocal", root)))

    def mean(self, x: ir.Value, *axes: int) -> ir.Value:
        """ReduceMean that keeps the axes."""
        return self.op(
            "ReduceMean", x, self.constant(list(axes)), keepdims=1, noop_with_empty_axes=0
        )

    def relu(self, x: ir.Value) -> ir.Value:
        """max(x, 0)."""
        return self.op("Relu", x)

    def silu(self, x: ir.Value) -> ir.Value:
        """x · sigmoid(x), as its decomposition."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def hard_swish(self, x: ir.Value) -> ir.Value:
        """The op HardSwish."""
        return self.op("HardSwish", x)

    def gelu(self, x: ir.Value) -> ir.Value:
        """The op Gelu, exact."""
        return self.op("Gelu", x, approximate="none")

    def reshape(self, x: ir.Value, *dims: int) -> ir.Value:
        """Reshape; 0 copies a dimension and -1 stands for the rest."""
        return self.op("Reshape", x, self.constant(list(dims)), allowzero=0)

    def transpose(self, x: ir.Value, *perm: int) -> ir.Value:
        """Transpose."""
        return self.op("Transpose", x, perm=list(perm))

    def slice(self, x: ir.Value, start: int, end: int, axis: int, step: int = 1) -> ir.Value:
        """x[start:end:step] along one axis."""
        limits = (self.constant([number]) for number in (start, end, axis, step))
        return self.op("Slice", x, *limits)

    def pick(self, x: ir.Value, index: int) -> ir.Value:
        """x[index]: Gather of one position along the first axis."""
        return self.op("Gather", x, self.constant(index), axis=0)

    def embedding(self, ids: ir.Value, table: ir.Value) -> ir.Value:
        """The rows of a table."""
        return self.op("Gather", table, ids, axis=0)

    def head(self, x: ir.Value, channels: int, classes: int) -> ir.Value:
        """Global average pool over an image and the last Gemm."""
        pooled = self.reshape(self.mean(x, -1, -2), -1, channels)
        return self.gemm(pooled, channels, classes)

    def heads(self, x: ir.Value, count: int, size: int) -> ir.Value:
        """[batch, length, count · size] → [batch, count, length, size]."""
        return self.transpose(self.reshape(x, 0, 0, count, size), 0, 2, 1, 3)

    def merge_heads(self, x: ir.Value, width: int) -> ir.Value:
        """[batch, count, length, size] → [batch, length, width]."""
        return self.reshape(self.transpose(x, 0, 2, 1, 3), 0, 0, width)

    def attention(
        self,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        size: int,
        mask: ir.Value | None = None,
        *,
        is_scaled: bool = False,
    ) -> ir.Value:
        """softmax(q · kᵀ / √size + mask) · v; all are [batch, heads, length, size].

        `is_scaled`: q carries the factor already. A row of −inf only gives 0, as in torch.
        """
        k = self.transpose(k, 0, 1, 3, 2)
        if not is_scaled:
            factor = self.constant(size**-0.25)
            q, k = self.op("Mul", q, factor), self.op("Mul", k, factor)
        scores = self.op("MatMul", q, k)
        if mask is None:
            return self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=-1)
        weights = self.op("Where", self.op("IsNaN", weights), self.constant(0.0), weights)
        return self.op("MatMul", weights, v)


def causal_mask(length: int) -> NDArray:
    """0 on and below the diagonal, −inf above it; float32 [1, 1, length, length]."""
    return np.triu(np.full((1, 1, length, length), -np.inf, np.float32), 1)
