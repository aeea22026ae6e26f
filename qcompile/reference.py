# SPDX-License-Identifier: Apache-2.0
"""Run one com.qcompile node by its meaning in numerics.

Gives the value, and for floats the bound that a kernel must keep.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.attention import as_meant, as_stored
from qcompile.graph import attribute, constant, input_of, is_constant
from qcompile.numerics.add import qadd
from qcompile.numerics.attention import Numbers, qattention
from qcompile.numerics.conv import Window, qconv_dynamic, qconv_scaled, qconv_static, qconv_summed
from qcompile.numerics.dynamic_attention import qdynamic_attention
from qcompile.numerics.gather import qgather
from qcompile.numerics.hadamard import Hadamard
from qcompile.numerics.layer_norm import qlayer_norm
from qcompile.numerics.lut import qlut
from qcompile.numerics.matmul import (
    qmatmul_dynamic,
    qmatmul_float,
    qmatmul_scaled,
    qmatmul_static,
    qmatmul_summed,
)
from qcompile.numerics.mul import qmul
from qcompile.numerics.pool import qpool_average, qpool_max
from qcompile.numerics.resize import Grid, qresize
from qcompile.numerics.softmax import qsoftmax
from qcompile.numerics.softmax_formats import UNIFORM, SoftmaxFormat
from qcompile.numerics.weight import CodedWeight
from qcompile.pack import weight_of_packed, weight_parts, weight_rows
from qcompile.passes.lower.lowered import BIAS, GATHER_SCALE, MULTIPLIER
from qcompile.step_tables import table_of_steps

STEPPED = {"QMatMul": (BIAS, MULTIPLIER), "QConv": (BIAS, MULTIPLIER), "QLut": (1,)}
Result = tuple[NDArray, NDArray | None]  # (value, bound); no bound: codes, which must be equal


def _clip(node: ir.Node) -> tuple[float, float]:
    return float(attribute(node, "clip_min", -np.inf)), float(attribute(node, "clip_max", np.inf))


def _codes(node: ir.Node) -> dict[str, int]:
    names = ("x_zero_point", "y_zero_point", "y_min", "y_max")
    return {n: int(attribute(node, n)) for n in names if n in node.attributes}


def _is_dyadic(node: ir.Node) -> bool:
    return attribute(node, "requantize") == "dyadic"


def _window(node: ir.Node, x: NDArray) -> Window:
    kernel = tuple(attribute(node, "kernel_shape")) or x.shape[1:3]
    strides = tuple(attribute(node, "strides", (1, 1)))
    pads = tuple(attribute(node, "pads", (0, 0, 0, 0)))
    dilations = tuple(attribute(node, "dilations", (1, 1)))
    return Window(kernel, strides, pads, dilations, bool(attribute(node, "ceil_mode", 0)))


def _exact(value: NDArray[np.float32]) -> Result:
    """A float whose every rounding the rule fixes (N16)."""
    return value.astype(np.float64), np.zeros(value.shape)


def rotated(node: ir.Node, x: NDArray) -> NDArray:
    """What a node makes of X before anything else (N42); X where it has no rotation."""
    block = int(attribute(node, "hadamard", 0))
    if not block:
        return x
    return Hadamard(x.shape[-1], block, int(attribute(node, "hadamard_seed"))).rotate(x)


def _stored(node: ir.Node, index: int, inputs: list[NDArray]) -> NDArray | None:
    """A constant operand, or the row of a table that the time step chose in this run."""
    places = [i for i in STEPPED[node.op_type] if _is_stepped(node, i)]
    if index in places:
        return inputs[places.index(index) - len(places)]
    return constant(input_of(node, index))


def _is_stepped(node: ir.Node, index: int) -> bool:
    return table_of_steps(input_of(node, index)) is not None


def _matmul(node: ir.Node, inputs: list[NDArray]) -> Result:
    bias, scale = (_stored(node, i, inputs) for i in (BIAS, MULTIPLIER))
    x, parts = rotated(node, inputs[0]), []
    for rows, weight in weight_parts(node):
        own = [None if v is None or not v.size else v[..., rows] for v in (bias, scale)]
        parts.append(_product(node, x, weight, *own))
    bounds = [bound for _, bound in parts if bound is not None]
    joined = np.concatenate([value for value, _ in parts], axis=-1)
    return joined, np.concatenate(bounds, axis=-1) if bounds else None


def _product(
    node: ir.Node, x: NDArray, weight: CodedWeight, bias: NDArray | None, scale: NDArray | None
) -> Result:
    """The outputs of some rows of the weight."""
    kind = attribute(node, "activation")
    if kind == "static":
        assert scale is not None
        if attribute(node, "output") == "i32":
            return qmatmul_summed(x, weight, bias, scale, **_codes(node)), None
        if attribute(node, "output") == "f32":
            point = int(attribute(node, "x_zero_point"))
            return _exact(qmatmul_scaled(x, weight, bias, scale, point, _clip(node)))
        return qmatmul_static(x, weight, bias, scale, **_codes(node)), None
    if kind == "f32":
        return qmatmul_float(x, weight, bias, _clip(node))
    bits = int(attribute(node, "activation_bits"))
    reach = attribute(node, "activation_reach")
    return qmatmul_dynamic(x, weight, bias, bits, _clip(node), reach)


def _conv(node: ir.Node, inputs: list[NDArray]) -> Result:
    weight, bias = weight_of_packed(node), _stored(node, BIAS, inputs)
    window, group = _window(node, inputs[0]), int(attribute(node, "group", 1))
    if attribute(node, "activation") == "static":
        scale = _stored(node, MULTIPLIER, inputs)
        assert scale is not None
        if attribute(node, "output") == "i32":
            values = _codes(node)
            return qconv_summed(inputs[0], weight, bias, scale, window, group, **values), None
        if attribute(node, "output") == "f32":
            point, clip = int(attribute(node, "x_zero_point")), _clip(node)
            return _exact(qconv_scaled(inputs[0], weight, bias, scale, window, group, point, clip))
        return qconv_static(inputs[0], weight, bias, scale, window, group, **_codes(node)), None
    bits = int(attribute(node, "activation_bits"))
    reach = attribute(node, "activation_reach")
    return qconv_dynamic(inputs[0], weight, bias, window, group, bits, _clip(node), reach)


def _gather(node: ir.Node, inputs: list[NDArray]) -> Result:
    indices, at = np.unique(inputs[0] % int(attribute(node, "N")), return_inverse=True)
    scale = constant(input_of(node, GATHER_SCALE))
    chosen = None if scale is None else scale[indices]
    rows = qgather(weight_rows(node, indices), at.reshape(inputs[0].shape), chosen)
    found = rows.astype(np.float64)
    return found, np.abs(found) * 2.0**-23  # one rounding (N23)


def _operands(node: ir.Node, inputs: list[NDArray]) -> tuple[NDArray, NDArray]:
    """Both codes of QAdd or QMul, of which one may be constant."""
    given, stored = iter(inputs), [constant(input_of(node, i)) for i in (0, 1)]
    a, b = (next(given) if found is None else found for found in stored)
    return a, b


def _add(node: ir.Node, inputs: list[NDArray]) -> Result:
    names = ("a_multiplier", "b_multiplier", "a_zero_point", "b_zero_point")
    values = {n: attribute(node, n) for n in (*names, "y_zero_point", "y_min", "y_max")}
    return qadd(*_operands(node, inputs), **values, is_dyadic=_is_dyadic(node)), None


def _mul(node: ir.Node, inputs: list[NDArray]) -> Result:
    names = ("multiplier", "a_zero_point", "b_zero_point", "y_zero_point", "y_min", "y_max")
    values = {n: attribute(node, n) for n in names}
    return qmul(*_operands(node, inputs), **values, is_dyadic=_is_dyadic(node)), None


def _lut(node: ir.Node, inputs: list[NDArray]) -> Result:
    table = _stored(node, 1, inputs)
    assert table is not None
    return qlut(inputs[0], table), None


def _resize(node: ir.Node, inputs: list[NDArray]) -> Result:
    scales, sizes = attribute(node, "scales", ()), attribute(node, "sizes", ())
    grid = Grid(attribute(node, "mode"), tuple(scales), tuple(sizes))
    return qresize(inputs[0], grid, float(attribute(node, "multiplier")), **_codes(node)), None


def _pool(node: ir.Node, inputs: list[NDArray]) -> Result:
    window = _window(node, inputs[0])
    if attribute(node, "mode") == "max":
        return qpool_max(inputs[0], window), None
    scale, is_dyadic = float(attribute(node, "multiplier")), _is_dyadic(node)
    include = bool(attribute(node, "count_include_pad"))
    return qpool_average(
        inputs[0], window, scale, **_codes(node), count_include_pad=include, is_dyadic=is_dyadic
    ), None


def _hadamard(node: ir.Node, inputs: list[NDArray]) -> Result:
    return _exact(rotated(node, inputs[0]))


def _layer_norm(node: ir.Node, inputs: list[NDArray]) -> Result:
    gamma, beta = constant(input_of(node, 1)), constant(input_of(node, 2))
    assert gamma is not None and beta is not None
    is_centred, epsilon = attribute(node, "mode") == "layer", float(attribute(node, "epsilon"))
    codes = _codes(node)
    return qlayer_norm(inputs[0], gamma, beta, epsilon, **codes, is_centred=is_centred), None


def _softmax(node: ir.Node, inputs: list[NDArray]) -> Result:
    table = constant(input_of(node, 1))
    assert table is not None
    return qsoftmax(inputs[0], table, float(attribute(node, "multiplier")), **_codes(node)), None


def _attention(node: ir.Node, inputs: list[NDArray]) -> Result:
    ends = [int(attribute(node, name)) for name in ("y_zero_point", "y_min", "y_max")]
    found = qattention(*attention_operands(node, inputs), attention_numbers(node), *ends)
    return as_stored(node, found), None


def _dynamic_attention(node: ir.Node, inputs: list[NDArray]) -> Result:
    multiplier = float(attribute(node, "multiplier"))
    value, bound = qdynamic_attention(*attention_operands(node, inputs), multiplier)
    return as_stored(node, value), as_stored(node, bound)


def attention_numbers(node: ir.Node) -> Numbers:
    """The zero points, multipliers and weights of QAttention."""
    q, k, v = (int(attribute(node, f"{name}_zero_point")) for name in "qkv")
    scale, y_scale = (float(attribute(node, name)) for name in ("multiplier", "y_multiplier"))
    name, shift = attribute(node, "softmax_format", UNIFORM), attribute(node, "softmax_shift", 0)
    return Numbers(q, k, v, scale, y_scale, SoftmaxFormat.parse(str(name), int(shift)))


def attention_operands(
    node: ir.Node, inputs: list[NDArray]
) -> tuple[NDArray, NDArray, NDArray, NDArray | None]:
    """q, k and v as N30 has them, and the mask; the mask may be constant."""
    q, k, v = (as_meant(node, name, x) for name, x in zip("qkv", inputs, strict=False))
    mask = constant(input_of(node, 3))
    return q, k, v, inputs[3] if mask is None and len(inputs) > 3 else mask


REFERENCES: dict[str, Callable[[ir.Node, list[NDArray]], Result]] = {
    "QMatMul": _matmul,
    "QConv": _conv,
    "QGather": _gather,
    "QAdd": _add,
    "QMul": _mul,
    "QLut": _lut,
    "QResize": _resize,
    "QPool": _pool,
    "QLayerNorm": _layer_norm,
    "QSoftmax": _softmax,
    "QAttention": _attention,
    "QDynamicAttention": _dynamic_attention,
    "Hadamard": _hadamard,
}


def activation_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that change from run to run."""
    count = {"QAdd": 2, "QMul": 2, "QAttention": 4, "QDynamicAttention": 4}.get(node.op_type, 1)
    return [v for v in node.inputs[:count] if v is not None and not is_constant(v)]


def stepped_inputs(node: ir.Node) -> list[ir.Value]:
    """The operands that are rows of tables, which the time step chooses; run_node has them last."""
    found = [node.inputs[i] for i in STEPPED.get(node.op_type, ()) if _is_stepped(node, i)]
    return [v for v in found if v is not None]


def run_node(node: ir.Node, inputs: list[NDArray]) -> Result:
    """The node's meaning on these activations."""
    return REFERENCES[node.op_type](node, inputs)
