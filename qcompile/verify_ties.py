# SPDX-License-Identifier: Apache-2.0
"""Ties: real numbers as near to the middle of two codes as the float ops that make them can tell.

Each op's error is bounded from those of its inputs, for a whole tensor at once (Higham 2002,
Accuracy and Stability of Numerical Algorithms, section 3.1). An op without a rule has no ties.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant, is_op
from qcompile.verify_normalised import UNIT

# Each element of the output is one of the input's, or a bound.
_MOVES = {
    *("Relu", "Clip", "MaxPool", "Identity", "Reshape", "Flatten", "Transpose", "Squeeze"),
    *("Unsqueeze", "Slice", "Split", "Concat", "Gather", "Expand", "Pad"),
}
_MEANS = {"AveragePool", "GlobalAveragePool", "ReduceMean"}
_PRODUCTS = {"Conv", "MatMul", "Gemm"}
_MORE = 4  # roundings of an op beside those of its sums: scales, a bias, the result

Values = Mapping[str, NDArray]


def ties(nodes: list[ir.Node], values: Values) -> NDArray[np.bool_]:
    """Where the first of the nodes, a QuantizeLinear, may give either neighbour.

    nodes: what makes its codes from other codes, the last ones first. values: all that they read
    and make, but for constants. Both models may be as wrong as the bound.
    """
    quantizer = nodes[0]
    assert is_op(quantizer, "QuantizeLinear") and quantizer.inputs[0] is not None
    real = _value(quantizer.inputs[0], values).astype(np.float64)
    error = errors(nodes[1:], values).get(quantizer.inputs[0], 0.0)
    scale = np.asarray(constant(quantizer.inputs[1]), np.float64)
    if scale.size > 1:
        axis = attribute(quantizer, "axis", 1) % real.ndim
        scale = scale.reshape(-1, *[1] * (real.ndim - axis - 1))
    else:
        scale = scale.reshape(())
    ratio = real / scale
    bound = 2 * error / scale + _MORE * UNIT * np.abs(ratio)
    from_tie = np.abs(np.abs(ratio - np.rint(ratio)) - 0.5)
    return np.asarray((from_tie <= bound) & np.isfinite(bound))


def errors(nodes: list[ir.Node], values: Values) -> dict[ir.Value, float]:
    """The largest error of any element that each node makes; infinite where no rule is known."""
    found: dict[ir.Value, float] = {}
    inside = set(nodes)
    for node in (n for n in (nodes[0].graph if nodes else None) or () if n in inside):
        given = [0.0 if v is None else found.get(v, 0.0) for v in node.inputs]
        found.update(dict.fromkeys(node.outputs, _error(node, given, values)))
    return found


def _error(node: ir.Node, given: list[float], values: Values) -> float:
    """Of one op, from the errors of its inputs."""

    def largest(value: ir.Value | None) -> float:
        return float(np.abs(_value(value, values).astype(np.float64)).max(initial=0))

    if node.domain != "":
        return float("inf")
    if node.op_type in _MOVES:
        return max(given, default=0.0)
    out = largest(node.outputs[0])
    if is_op(node, "DequantizeLinear", "Add", "Sub"):
        return sum(given) + UNIT * out
    if is_op(node, "Mul"):
        a, b = (largest(v) for v in node.inputs)
        return given[0] * (b + given[1]) + given[1] * a + UNIT * out
    if node.op_type in _MEANS:
        x = node.inputs[0]
        terms = _value(x, values).size / max(_value(node.outputs[0], values).size, 1)
        if is_op(node, "AveragePool"):
            terms = float(np.prod(attribute(node, "kernel_shape", ())))
        return given[0] + (terms + _MORE) * UNIT * largest(x)
    if node.op_type in _PRODUCTS:
        return _product_error(node, given, values, largest)
    return float("inf")


def _product_error(
    node: ir.Node,
    given: list[float],
    values: Values,
    largest: Callable[[ir.Value | None], float],
) -> float:
    """(K + 4) · 2^-23 of the largest |x| · Σ |w| + |bias|, beside what the inputs' errors make."""
    if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        return float("inf")
    w = np.abs(_value(node.inputs[1], values).astype(np.float64))
    axes = tuple(range(1, w.ndim)) if is_op(node, "Conv") else max(w.ndim - 2, 0)
    if is_op(node, "Gemm") and attribute(node, "transB", 0):
        axes = 1
    k = w.size // max(w.sum(axes).size, 1)
    sums, x = float(w.sum(axes).max(initial=0)), largest(node.inputs[0])
    bias = largest(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    passed = given[0] * (sums + k * given[1]) + given[1] * k * x + sum(given[2:])
    return passed + (k + _MORE) * UNIT * (x * sums + bias)


def _value(value: ir.Value | None, values: Values) -> NDArray:
    """Of one value, which is a constant or was run."""
    assert value is not None
    stored = constant(value)
    return np.asarray(values[value.name or ""] if stored is None else stored)
