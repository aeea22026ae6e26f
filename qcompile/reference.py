# SPDX-License-Identifier: Apache-2.0
"""Run one com.qcompile node by its meaning in numerics.

Gives the value, and for floats the bound that a kernel must keep.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant, input_of
from qcompile.numerics.add import qadd
from qcompile.numerics.conv import Window, qconv_dynamic, qconv_static
from qcompile.numerics.gather import qgather
from qcompile.numerics.matmul import qmatmul_dynamic, qmatmul_float, qmatmul_static
from qcompile.numerics.pool import qpool_average, qpool_max
from qcompile.pack import weight_of_packed
from qcompile.passes.lower.lowered import BIAS, MULTIPLIER

Result = tuple[NDArray, NDArray | None]  # (value, bound); no bound: codes, which must be equal


def _clip(node: ir.Node) -> tuple[float, float]:
    return float(attribute(node, "clip_min", -np.inf)), float(attribute(node, "clip_max", np.inf))


def _codes(node: ir.Node) -> dict[str, int]:
    names = ("x_zero_point", "y_zero_point", "y_min", "y_max")
    return {n: int(attribute(node, n)) for n in names if n in node.attributes}


def _window(node: ir.Node, x: NDArray) -> Window:
    kernel = tuple(attribute(node, "kernel_shape")) or x.shape[1:3]
    strides = tuple(attribute(node, "strides", (1, 1)))
    pads = tuple(attribute(node, "pads", (0, 0, 0, 0)))
    return Window(kernel, strides, pads, tuple(attribute(node, "dilations", (1, 1))))


def _matmul(node: ir.Node, inputs: list[NDArray]) -> Result:
    weight, bias = weight_of_packed(node), constant(input_of(node, BIAS))
    kind = attribute(node, "activation")
    if kind == "static":
        scale = constant(input_of(node, MULTIPLIER))
        assert scale is not None
        return qmatmul_static(inputs[0], weight, bias, scale, **_codes(node)), None
    if kind == "f32":
        return qmatmul_float(inputs[0], weight, bias, _clip(node))
    bits = int(attribute(node, "activation_bits"))
    return qmatmul_dynamic(inputs[0], weight, bias, bits, _clip(node))


def _conv(node: ir.Node, inputs: list[NDArray]) -> Result:
    weight, bias = weight_of_packed(node), constant(input_of(node, BIAS))
    window, group = _window(node, inputs[0]), int(attribute(node, "group"))
    if attribute(node, "activation") == "static":
        scale = constant(input_of(node, MULTIPLIER))
        assert scale is not None
        return qconv_static(inputs[0], weight, bias, scale, window, group, **_codes(node)), None
    bits = int(attribute(node, "activation_bits"))
    return qconv_dynamic(inputs[0], weight, bias, window, group, bits, _clip(node))


def _gather(node: ir.Node, inputs: list[NDArray]) -> Result:
    rows = qgather(weight_of_packed(node), inputs[0]).astype(np.float64)
    return rows, np.abs(rows) * 2.0**-23  # one rounding (N23)


def _add(node: ir.Node, inputs: list[NDArray]) -> Result:
    names = ("a_multiplier", "b_multiplier", "a_zero_point", "b_zero_point")
    values = {n: attribute(node, n) for n in (*names, "y_zero_point", "y_min", "y_max")}
    return qadd(inputs[0], inputs[1], **values), None


def _pool(node: ir.Node, inputs: list[NDArray]) -> Result:
    window = _window(node, inputs[0])
    if attribute(node, "mode") == "max":
        return qpool_max(inputs[0], window), None
    count_include_pad = bool(attribute(node, "count_include_pad"))
    scale = float(attribute(node, "multiplier"))
    return qpool_average(
        inputs[0], window, scale, **_codes(node), count_include_pad=count_include_pad
    ), None


REFERENCES: dict[str, Callable[[ir.Node, list[NDArray]], Result]] = {
    "QMatMul": _matmul,
    "QConv": _conv,
    "QGather": _gather,
    "QAdd": _add,
    "QPool": _pool,
}


def activation_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that change from run to run."""
    count = 2 if node.op_type == "QAdd" else 1
    return [v for v in node.inputs[:count] if v is not None]


def run_node(node: ir.Node, inputs: list[NDArray]) -> Result:
    """The node's meaning on these activations."""
    return REFERENCES[node.op_type](node, inputs)
