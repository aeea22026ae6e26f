# SPDX-License-Identifier: Apache-2.0
"""Forward and reverse of the ops that networks of products have beside them, in NumPy, float32.

As in reverse_products.py. Inputs that are shapes, axes or indices have no gradient.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute
from qcompile.reverse_products import (
    Real,
    Result,
    average_pool,
    conv,
    gemm,
    global_average_pool,
    matmul,
    max_pool,
    summed_to,
)

Op = Callable[..., Result]
_Slope = Callable[[Real, Real], Real]


def elementwise(function: Callable[[Real], Real], slope: _Slope) -> Op:
    """An op of one tensor; slope of (x, y)."""

    def op(node: ir.Node, x: Real) -> Result:
        y = function(x)
        return y, lambda g: (g * slope(x, y),)

    return op


def leaky_relu(node: ir.Node, x: Real) -> Result:
    """x, or α x below 0."""
    slope = np.where(x > 0, np.float32(1), np.float32(attribute(node, "alpha", 0.01)))
    return x * slope, lambda g: (g * slope,)


def clip(node: ir.Node, x: Real, low: Real | None = None, high: Real | None = None) -> Result:
    """Gradients pass inside the bounds."""
    y = np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)
    return y, lambda g: (g * (x == y), None, None)


def power(node: ir.Node, x: Real, exponent: Real) -> Result:
    """x to a constant."""
    y = np.power(x, exponent)
    return y, lambda g: (g * exponent * np.power(x, exponent - 1), None)


def add(node: ir.Node, a: Real, b: Real) -> Result:
    """a + b."""
    return a + b, lambda g: (summed_to(g, a.shape), summed_to(g, b.shape))


def sub(node: ir.Node, a: Real, b: Real) -> Result:
    """a − b."""
    return a - b, lambda g: (summed_to(g, a.shape), summed_to(-g, b.shape))


def mul(node: ir.Node, a: Real, b: Real) -> Result:
    """a · b."""
    return a * b, lambda g: (summed_to(g * b, a.shape), summed_to(g * a, b.shape))


def div(node: ir.Node, a: Real, b: Real) -> Result:
    """a ÷ b."""
    y = a / b
    return y, lambda g: (summed_to(g / b, a.shape), summed_to(-g * y / b, b.shape))


def where(node: ir.Node, chosen: NDArray, a: Real, b: Real) -> Result:
    """a or b."""
    y = np.where(chosen, a, b)

    def pull(g: Real) -> tuple[Real | None, ...]:
        zero = np.float32(0)
        by_a, by_b = np.where(chosen, g, zero), np.where(chosen, zero, g)
        return None, summed_to(by_a, a.shape), summed_to(by_b, b.shape)

    return y, pull


def softmax(node: ir.Node, x: Real) -> Result:
    """Along the node's axis."""
    axis = attribute(node, "axis", -1)
    power_ = np.exp(x - x.max(axis, keepdims=True))
    y = power_ / power_.sum(axis, keepdims=True)
    return y, lambda g: (y * (g - (g * y).sum(axis, keepdims=True)),)


def layer_norm(node: ir.Node, x: Real, scale: Real, bias: Real | None = None) -> Result:
    """LayerNormalization of the last axes."""
    axes = tuple(range(attribute(node, "axis", -1) % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    variance = np.square(centred).mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + np.float32(attribute(node, "epsilon", 1e-5)))
    unit = centred * inverse
    y = unit * scale if bias is None else unit * scale + bias

    def pull(g: Real) -> tuple[Real | None, ...]:
        h = g * scale
        mean = h.mean(axes, keepdims=True)
        by_x = inverse * (h - mean - unit * (h * unit).mean(axes, keepdims=True))
        by_bias = None if bias is None else summed_to(g, bias.shape)
        return by_x, summed_to(g * unit, scale.shape), by_bias

    if len(node.outputs) > 1:
        raise NotImplementedError("LayerNormalization with several outputs")
    return y, pull


def reduce_mean(node: ir.Node, x: Real, axes: NDArray | None = None) -> Result:
    """The mean along axes, which are an attribute in older opsets."""
    given = attribute(node, "axes") if axes is None else axes
    chosen = tuple(range(x.ndim)) if given is None else tuple(int(a) % x.ndim for a in given)
    kept = tuple(1 if i in chosen else d for i, d in enumerate(x.shape))
    size = np.float32(np.prod([x.shape[i] for i in chosen]))
    y = x.mean(chosen, keepdims=bool(attribute(node, "keepdims", 1)))
    return y, lambda g: (np.broadcast_to(g.reshape(kept) / size, x.shape), None)


def _reshaped(x: Real, shape: tuple[int, ...]) -> Result:
    return x.reshape(shape), lambda g: (g.reshape(x.shape), None)


def reshape(node: ir.Node, x: Real, shape: NDArray) -> Result:
    """0 keeps a dimension unless the node allows zeros."""
    keeps = not attribute(node, "allowzero", 0)
    dims = tuple(x.shape[i] if not d and keeps else int(d) for i, d in enumerate(shape))
    return _reshaped(x, dims)


def flatten(node: ir.Node, x: Real) -> Result:
    """[before the axis, from it on]."""
    axis = attribute(node, "axis", 1)
    before = int(np.prod(x.shape[: axis % x.ndim if axis < 0 else axis]))
    return _reshaped(x, (before, x.size // max(before, 1)))


def expand(node: ir.Node, x: Real, shape: NDArray) -> Result:
    """Broadcast with a shape, in both directions."""
    dims = np.broadcast_shapes(x.shape, tuple(int(d) for d in shape))
    return np.broadcast_to(x, dims), lambda g: (summed_to(g, x.shape), None)


def squeeze(node: ir.Node, x: Real, axes: NDArray | None = None) -> Result:
    """Without axes of size 1."""
    given = attribute(node, "axes") if axes is None else axes
    chosen = None if given is None else tuple(int(a) for a in given)
    return _reshaped(x, x.squeeze(chosen).shape)


def unsqueeze(node: ir.Node, x: Real, axes: NDArray | None = None) -> Result:
    """With axes of size 1."""
    given = attribute(node, "axes") if axes is None else axes
    return _reshaped(x, np.expand_dims(x, tuple(int(a) for a in given)).shape)


def transpose(node: ir.Node, x: Real) -> Result:
    """Axes in another order."""
    order = attribute(node, "perm") or tuple(reversed(range(x.ndim)))
    return x.transpose(order), lambda g: (g.transpose(np.argsort(order)),)


def concat(node: ir.Node, *parts: Real) -> Result:
    """One after the other along an axis."""
    axis = attribute(node, "axis", 0)
    ends = np.cumsum([p.shape[axis] for p in parts])[:-1]
    return np.concatenate(parts, axis), lambda g: tuple(np.split(g, ends, axis))


def _picked(x: Real, at: tuple[slice, ...]) -> Result:
    def pull(g: Real) -> tuple[Real | None, ...]:
        out = np.zeros(x.shape, g.dtype)
        out[at] = g
        return (out,)

    return x[at], pull


def slices(
    node: ir.Node,
    x: Real,
    starts: NDArray,
    ends: NDArray,
    axes: NDArray | None = None,
    steps: NDArray | None = None,
) -> Result:
    """Part of a tensor; steps forward only."""
    chosen = range(len(starts)) if axes is None else [int(a) for a in axes]
    stride = [1] * len(starts) if steps is None else [int(s) for s in steps]
    if any(s < 1 for s in stride):
        raise NotImplementedError("Slice backwards")
    at = [slice(None)] * x.ndim
    for axis, start, end, step in zip(chosen, starts, ends, stride, strict=True):
        at[axis] = slice(int(start), int(end), step)
    return _picked(x, tuple(at))


def pad(node: ir.Node, x: Real, pads: NDArray, value: Real | None = None) -> Result:
    """Constants around a tensor; none is taken away."""
    half = len(pads) // 2
    if attribute(node, "mode", "constant") != "constant" or half != x.ndim or min(pads) < 0:
        raise NotImplementedError("Pad of other than constants, or along some axes")
    border = [(int(pads[i]), int(pads[i + half])) for i in range(half)]
    at = tuple(slice(b, b + d) for (b, _), d in zip(border, x.shape, strict=True))
    y = np.pad(x, border, constant_values=0 if value is None else value.item())
    return y, lambda g: (g[at],)


def gather(node: ir.Node, table: Real, indices: NDArray) -> Result:
    """Rows, or indices of another axis."""
    axis = attribute(node, "axis", 0) % table.ndim

    def pull(g: Real) -> tuple[Real | None, ...]:
        out = np.zeros(table.shape, g.dtype)
        at: Any = (*[slice(None)] * axis, indices)
        np.add.at(out, at, g)
        return out, None

    return np.asarray(np.take(table, indices, axis)), pull


def _erf(x: Real) -> Real:
    """Abramowitz and Stegun 7.1.26: within 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    return np.asarray(np.copysign(1 - series * np.exp(-x * x), x))


def _sigmoid(x: Real) -> Real:
    return np.asarray((np.tanh(x / 2) + 1) / 2)


OPS: dict[str, Op] = {
    "Conv": conv,
    "MatMul": matmul,
    "Gemm": gemm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "Relu": elementwise(lambda x: np.maximum(x, np.float32(0)), lambda x, y: (x > 0) * 1),  # type: ignore[arg-type,return-value]
    "Sigmoid": elementwise(_sigmoid, lambda x, y: y * (1 - y)),
    "Tanh": elementwise(np.tanh, lambda x, y: 1 - y * y),
    "Erf": elementwise(_erf, lambda x, y: (2 / math.sqrt(math.pi)) * np.exp(-x * x)),
    "Sqrt": elementwise(np.sqrt, lambda x, y: np.float32(0.5) / y),
    "Exp": elementwise(np.exp, lambda x, y: y),
    "Abs": elementwise(np.abs, lambda x, y: np.sign(x)),
    "Sign": elementwise(np.sign, lambda x, y: np.float32(0)),  # type: ignore[arg-type,return-value]
    "Log": elementwise(np.log, lambda x, y: np.reciprocal(x)),
    # As that of codes has (Bengio et al. 2013, section 4).
    "Round": elementwise(np.rint, lambda x, y: np.float32(1)),  # type: ignore[arg-type,return-value]
    "Neg": elementwise(np.negative, lambda x, y: np.float32(-1)),  # type: ignore[arg-type,return-value]
    "Reciprocal": elementwise(np.reciprocal, lambda x, y: -y * y),
    "Identity": elementwise(lambda x: x, lambda x, y: np.float32(1)),  # type: ignore[arg-type,return-value]
    **{"LeakyRelu": leaky_relu, "Clip": clip, "Pow": power, "Where": where, "Softmax": softmax},
    **{"Add": add, "Sub": sub, "Mul": mul, "Div": div, "LayerNormalization": layer_norm},
    **{"ReduceMean": reduce_mean, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze},
    **{"Unsqueeze": unsqueeze, "Transpose": transpose, "Concat": concat, "Slice": slices},
    **{"Pad": pad, "Gather": gather, "Expand": expand},
}
