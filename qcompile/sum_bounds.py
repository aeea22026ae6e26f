# SPDX-License-Identifier: Apache-2.0
"""How far two float computations of a lowered product may lie apart: the bound of N13 and N14."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import constant, input_of
from qcompile.pack import weight_parts
from qcompile.passes.lower.lowered import BIAS, real_multiplier
from qcompile.reference import stepped_inputs


def largest_input(node: ir.Node, x: NDArray) -> float:
    """The largest |x| in the unit of the weights' sums: real, or centred codes."""
    if x.dtype.kind == "f":
        return float(np.abs(x).max(initial=0))
    point = node.attributes.get("x_zero_point")
    return 1.0 if point is None else float(np.abs(x.astype(int) - point.value).max(initial=0))


def sum_bound(node: ir.Node, run: Mapping[str, NDArray]) -> Callable[[float], NDArray]:
    """Of the largest |x|, the bound on every output; [N, 1, 1] for a map.

    run: values of one run by name, where bias and multiplier are found that the time step chooses.
    """
    if node.op_type == "QGather":
        return lambda largest: np.zeros(1)  # one rounding, which float_ratio allows (N23)
    bias, scale = constant(input_of(node, BIAS)), real_multiplier(node)
    for value in stepped_inputs(node):
        if value is input_of(node, BIAS):
            bias = run[value.name or ""]
        else:
            scale = run[value.name or ""]
    parts = (w.decode() if scale is None else w.values() for _, w in weight_parts(node))
    sums = np.concatenate([np.abs(part).sum(1, dtype=np.float64) for part in parts])
    added = np.zeros(1) if bias is None else np.abs(bias.astype(np.float64))
    if scale is not None:
        sums, added = sums * scale, added * scale
    shape = (-1, 1, 1) if node.op_type == "QConv" else (-1,)
    unit = 2 * (int(node.attributes["K"].value) + 4) * 2.0**-23
    return lambda largest: (unit * (largest * sums + added)).reshape(shape)
