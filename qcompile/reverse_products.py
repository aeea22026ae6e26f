# SPDX-License-Identifier: Apache-2.0
"""Forward and reverse of ops with windows and of products, in NumPy, float32, NCHW.

An op takes its node and inputs and gives its output and `pull`: from the gradient of a loss by the
output to those by the inputs (None: there is none). Columns of patches are made again in reverse,
which costs a copy and saves their memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute
from qcompile.numerics.conv import Window
from qcompile.products import window_of

Real = NDArray[np.float32]
Pull = Callable[[Real], tuple[Real | None, ...]]
Result = tuple[Real, Pull]


def summed_to(gradient: Real, shape: tuple[int, ...]) -> Real:
    """A gradient by what was broadcast, from one by the result: [..., shape] to shape."""
    extra = gradient.ndim - len(shape)
    axes = (*range(extra), *(extra + i for i, d in enumerate(shape) if d == 1))
    return gradient.sum(axes, keepdims=True).reshape(shape) if axes else gradient


def matmul(node: ir.Node, x: Real, w: Real) -> Result:
    """y = x · w; w [K, N] with any x, or stacks of matrices that broadcast."""

    def pull(g: Real) -> tuple[Real | None, ...]:
        by_x = summed_to(g @ w.swapaxes(-1, -2), x.shape)
        if w.ndim == 2:
            return by_x, x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
        return by_x, summed_to(x.swapaxes(-1, -2) @ g, w.shape)

    if x.ndim < 2 or w.ndim < 2:
        raise NotImplementedError("MatMul of a vector")
    return x @ w, pull


def gemm(node: ir.Node, x: Real, w: Real, bias: Real | None = None) -> Result:
    """y = x · w + bias as normalise leaves it: alpha and beta 1, x as it is, w perhaps turned."""
    is_turned = bool(attribute(node, "transB", 0))
    if attribute(node, "transA", 0) or any(attribute(node, n, 1) != 1 for n in ("alpha", "beta")):
        raise NotImplementedError("Gemm with alpha, beta or transA")
    wide = w.T if is_turned else w
    y = x @ wide if bias is None else x @ wide + bias

    def pull(g: Real) -> tuple[Real | None, ...]:
        by_w = g.T @ x if is_turned else x.T @ g
        return g @ wide.T, by_w, None if bias is None else summed_to(g, bias.shape)

    return y, pull


def conv(node: ir.Node, x: Real, w: Real, bias: Real | None = None) -> Result:
    """y [B, N, OH, OW] of maps x [B, C, H, W] and w [N, C/g, kh, kw]."""
    if x.ndim != 4:
        raise NotImplementedError("Conv of other than two-dimensional maps")
    window = window_of(node, (w.shape[2], w.shape[3]))
    group, (batch, channels), count = int(attribute(node, "group", 1)), x.shape[:2], w.shape[0]
    height, width = window.output_size(*x.shape[2:])
    matrix = w.reshape(group, count // group, -1)
    y = matrix @ _columns(x, window).reshape(batch, group, matrix.shape[2], -1)
    y = y.reshape(batch, count, height, width)
    if bias is not None:
        y += bias[:, None, None]

    def pull(g: Real) -> tuple[Real | None, ...]:
        wide = g.reshape(batch, group, count // group, -1)
        columns = _columns(x, window).reshape(batch, group, matrix.shape[2], -1)
        by_w = (wide @ columns.swapaxes(-1, -2)).sum(0).reshape(w.shape)
        del columns
        turned = matrix.swapaxes(-1, -2) @ wide
        shape = (batch, channels, len(list(_taps(window, x.shape))), height, width)
        by_x = _scattered(turned.reshape(shape), x.shape, window)
        return by_x, by_w, None if bias is None else g.sum((0, 2, 3))

    return y, pull


def max_pool(node: ir.Node, x: Real) -> Result:
    """Of several largest ones the first has the gradient."""
    window, shape = _pool_window(node, x)
    patches = _columns(x, window, -np.inf).reshape(shape)
    at = patches.argmax(2)[:, :, None]
    y = np.take_along_axis(patches, at, 2)[:, :, 0]

    def pull(g: Real) -> tuple[Real | None, ...]:
        chosen = np.arange(shape[2])[:, None, None] == at
        return (_scattered(chosen * g[:, :, None], x.shape, window),)

    return y, pull


def average_pool(node: ir.Node, x: Real) -> Result:
    """The mean of a window; padding counts where the node says so."""
    window, shape = _pool_window(node, x)
    counted = np.ones((1, 1, *x.shape[2:]), np.float32)
    edge = 1.0 if attribute(node, "count_include_pad", 0) else 0.0
    counts = _columns(counted, window, edge).reshape(1, 1, *shape[2:]).sum(2)
    y = _columns(x, window).reshape(shape).sum(2) / counts

    def pull(g: Real) -> tuple[Real | None, ...]:
        each = np.broadcast_to((g / counts)[:, :, None], shape)
        return (_scattered(each, x.shape, window),)

    return y, pull


def global_average_pool(node: ir.Node, x: Real) -> Result:
    """The mean of every map."""
    axes = tuple(range(2, x.ndim))
    size = np.float32(np.prod(x.shape[2:]))
    return x.mean(axes, keepdims=True), lambda g: (np.broadcast_to(g / size, x.shape),)


def _pool_window(node: ir.Node, x: Real) -> tuple[Window, tuple[int, ...]]:
    """The window, and [B, C, taps, OH, OW]."""
    kernel = tuple(attribute(node, "kernel_shape", ()))
    if x.ndim != 4 or attribute(node, "auto_pad", "NOTSET") != "NOTSET" or len(node.outputs) > 1:
        raise NotImplementedError(f"{node.op_type} of other than two-dimensional maps")
    is_ceil = bool(attribute(node, "ceil_mode", 0))
    if is_ceil and attribute(node, "count_include_pad", 0):
        raise NotImplementedError("AveragePool that counts padding with ceil_mode")
    window = replace(window_of(node, (kernel[0], kernel[1])), is_ceil=is_ceil)
    return window, (*x.shape[:2], kernel[0] * kernel[1], *window.output_size(*x.shape[2:]))


def _taps(window: Window, shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """Which elements of the padded maps every element of the kernel reads."""
    size, (sh, sw), (dh, dw) = window.output_size(*shape[2:]), window.strides, window.dilations
    for i in range(window.kernel[0]):
        for j in range(window.kernel[1]):
            rows = slice(i * dh, i * dh + (size[0] - 1) * sh + 1, sh)
            yield ..., rows, slice(j * dw, j * dw + (size[1] - 1) * sw + 1, sw)


def _border(window: Window) -> tuple[tuple[int, int], ...]:
    """What np.pad adds; with ceil_mode windows reach further, by less than a stride."""
    top, left, bottom, right = window.pads
    more = window.is_ceil * (window.strides[0] - 1), window.is_ceil * (window.strides[1] - 1)
    return (0, 0), (0, 0), (top, bottom + more[0]), (left, right + more[1])


def _columns(x: Real, window: Window, edge: float = 0.0) -> Real:
    """[B, C, taps, OH · OW] of maps [B, C, H, W]."""
    border, size = _border(window), window.output_size(*x.shape[2:])
    if window.kernel == window.strides == (1, 1) and not any(window.pads):
        return x.reshape(*x.shape[:2], 1, -1)
    padded = np.pad(x, border, constant_values=edge) if np.any(border) else x
    count = window.kernel[0] * window.kernel[1]
    out = np.empty((*x.shape[:2], count, *size), x.dtype)
    for i, at in enumerate(_taps(window, x.shape)):
        out[:, :, i] = padded[at]
    return out.reshape(*out.shape[:3], -1)


def _scattered(columns: Real, shape: tuple[int, ...], window: Window) -> Real:
    """The sum over patches [B, C, taps, OH, OW] at the places of [B, C, H, W] that they read."""
    (_, _, (top, bottom), (left, right)) = _border(window)
    height, width = shape[2:]
    out = np.zeros((*shape[:2], top + height + bottom, left + width + right), columns.dtype)
    for i, at in enumerate(_taps(window, shape)):
        out[at] += columns[:, :, i]
    return out[:, :, top : top + height, left : left + width]
