# SPDX-License-Identifier: Apache-2.0
"""Activations to codes and back, forward and in reverse, for the tape (reverse.py).

Where the time step chooses the scale, samples of one run may have steps of their own here, each
with its scale, and every bucket a gradient; the graph itself takes one step a run.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant
from qcompile.numerics.quantize import quantize_dynamic
from qcompile.reverse_ops import Op
from qcompile.reverse_products import Real, Result
from qcompile.step_tables import Buckets


def static(node: ir.Node, bounds: tuple[int, int], *, is_tuned: bool) -> Op:
    """x to codes and back; the scale is the second input where it is tuned."""
    scale, point = np.asarray(constant(node.inputs[1])), np.asarray(constant(node.inputs[2]))
    axis = attribute(node, "axis", 1)

    def op(_: ir.Node, x: Real, tuned: Real | None = None) -> Result:
        shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)] if scale.ndim else []
        s = scale.reshape(shape) if tuned is None else tuned
        zero = point.reshape(shape).astype(np.float32)
        ratio = x / s
        wide = np.rint(ratio) + zero
        codes = np.clip(wide, np.float32(bounds[0]), np.float32(bounds[1]))
        inside = codes == wide
        codes -= zero

        def pull(g: Real) -> tuple[Real | None, ...]:
            by_x = g * inside
            if tuned is None:
                return (by_x,)
            slope = np.where(inside, codes - ratio, codes)
            return by_x, np.asarray((g * slope).sum())

        return codes * s, pull

    return op


def dynamic(quantize: ir.Node) -> Op:
    """x to codes of a scale a row or sample and back; the slope is 1."""
    spec, bits = attribute(quantize, "granularity"), int(attribute(quantize, "bits"))
    reach = attribute(quantize, "reach")

    def op(_: ir.Node, x: Real) -> Result:
        axes = (x.ndim - 1,) if spec == "row" else tuple(range(1, x.ndim))
        codes, scale = quantize_dynamic(x, axes, bits, reach)
        return codes * scale, lambda g: (g,)

    return op


def static_by_step(buckets: Buckets, point: int, bounds: tuple[int, int]) -> Op:
    """x to codes and back; steps: the input with the time step, [] or [batch]; scales [T]."""

    def op(_: ir.Node, x: Real, steps: NDArray, scales: Real) -> Result:
        chosen = _of_samples(buckets, steps, len(x) if x.ndim else 1)
        s = scales[chosen].reshape(-1, *[1] * (x.ndim - 1)) if x.ndim else scales[chosen[0]]
        ratio = x / s
        wide = np.rint(ratio) + np.float32(point)
        codes = np.clip(wide, np.float32(bounds[0]), np.float32(bounds[1]))
        inside = codes == wide
        codes -= np.float32(point)

        def pull(g: Real) -> tuple[Real | None, ...]:
            slope = g * np.where(inside, codes - ratio, codes)
            by_sample = slope.reshape(len(slope), -1).sum(1) if x.ndim else slope.reshape(1)
            found = np.zeros_like(scales)
            np.add.at(found, chosen, by_sample)
            return g * inside, None, found

        return codes * s, pull

    return op


def _of_samples(buckets: Buckets, steps: NDArray, count: int) -> NDArray[np.int64]:
    """The bucket of every row of x, [count]; of rows that are several a sample, in their order."""
    known = np.clip(np.ravel(steps), 0, len(buckets.of_step) - 1)
    found = buckets.of_step[known]
    each, left = divmod(count, len(found))
    return np.full(count, found[0]) if left else np.repeat(found, each)
