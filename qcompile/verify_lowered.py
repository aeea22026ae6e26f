# SPDX-License-Identifier: Apache-2.0
"""Every lowered product against the QDQ node of the same name: its constants, its float outputs."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import DOMAIN, attribute, constant, input_of, is_constant, is_op, only_consumer
from qcompile.memory import in_threads
from qcompile.numerics.dyadic import as_operand, as_ratios
from qcompile.numerics.requantize import multiplier
from qcompile.pack import PACKED_OPS, weight_parts
from qcompile.passes.lower.lowered import BIAS, GATHER_SCALE, MULTIPLIER, output_scale
from qcompile.pieces import OUTPUT, as_nchw, float_name, piece_between
from qcompile.reference import rotated
from qcompile.step_tables import table_of_steps
from qcompile.sum_bounds import largest_input, sum_bound
from qcompile.verdict import Check
from qcompile.verify_nodes import float_ratio

_WHOLE_ELEMENTS = 1 << 24  # of a weight that ONNX Runtime may dequantize at once


def check_constants(lowered: ir.Model, quantized: ir.Model) -> Check:
    """lower: codes, scales, zero points, biases and multipliers are those of the QDQ graph."""
    originals = {n.name: n for n in quantized.graph}
    nodes = [n for n in lowered.graph if n.domain == DOMAIN and n.op_type in PACKED_OPS]
    left = {n.name for n in lowered.graph if is_op(n, "Add")}  # adders that did not fuse
    found = in_threads(lambda node: _differences(node, originals.get(node.name), left), nodes)
    wrong = [f"{n.name} ({what})" for n, each in zip(nodes, found, strict=True) for what in each]
    source = "constants that differ from the QDQ graph's"
    return Check("lower: constants", len(wrong), 0, source, ", ".join(wrong[:4]), len(nodes))


def _differences(node: ir.Node, original: ir.Node | None, left: set[str | None]) -> list[str]:
    if original is None:
        return ["no QDQ node has its name"]
    back = _weight_node(original)
    if back is None:
        return ["its QDQ node has no codes"]
    found = _weight_differences(node, back)
    if node.op_type == "QGather":
        rows = constant(input_of(node, GATHER_SCALE))
        return found + ["scale"] * (rows is not None and not _is_scale_of_rows(rows, back))
    stored, wanted = _constants(input_of(node, BIAS)), _bias(original, left)
    if wanted is None and stored is not None and stored.dtype == np.int32:
        wanted = np.zeros_like(stored)  # a static product without a bias
    if not _equal(stored, wanted):
        found.append("bias")
    made, scale, n = (
        _constants(input_of(node, MULTIPLIER)),
        constant(back.inputs[1]),
        node.attributes["N"],
    )
    assert scale is not None
    if made is not None and not np.array_equal(made, _multiplier(node, original, scale, n.value)):
        found.append("multiplier")
    return found


def _weight_differences(node: ir.Node, back: ir.Node) -> list[str]:
    codes, scale, point = (constant(input_of(back, i)) for i in range(3))
    assert codes is not None and scale is not None
    n = len(codes)
    codes = (codes.transpose(0, 2, 3, 1) if codes.ndim == 4 else codes).reshape(n, -1)
    has_codebook = bool(attribute(node, "has_codebook", 0))
    scales = scale if has_codebook else _by_rows(scale, n)
    points = None if point is None else _by_rows(point, n)
    found: dict[str, None] = {}
    for rows, weight in weight_parts(node):
        if not np.array_equal(_bytes(weight.codes), _bytes(codes[rows])):
            found["codes"] = None
        if weight.scale is not None and not np.array_equal(weight.scale, scales[rows]):
            found["scale"] = None
        levels = weight.levels
        if has_codebook and (levels is None or not np.array_equal(levels, scales[rows])):
            found["levels"] = None
        if (points is None) != (weight.zero_point is None) or (
            points is not None
            and not np.array_equal(_bytes(weight.zero_point), _bytes(points[rows]))
        ):
            found["zero point"] = None
    return list(found)


def _is_scale_of_rows(rows: NDArray, back: ir.Node) -> bool:
    scale = constant(back.inputs[1])
    assert scale is not None
    return np.array_equal(rows, _by_rows(scale, len(rows)).ravel())


def _weight_node(node: ir.Node) -> ir.Node | None:
    """What dequantizes the weight of a QDQ node."""
    value = node.inputs[0 if is_op(node, "Gather") else 1]
    back = value.producer() if value is not None else None
    if back is not None and is_op(back, "Transpose") and back.inputs[0] is not None:
        back = back.inputs[0].producer()
    return back if back is not None and is_constant(back.inputs[0]) else None


def _bytes(values: NDArray | None) -> NDArray:
    """Codes as their bytes, so that a container's sign does not matter."""
    assert values is not None
    return values.astype(np.int16) & 0xFF


def _by_rows(values: NDArray, n: int) -> NDArray:
    """[N, num_blocks], where one value of a tensor or one a row may be written out."""
    return values if values.ndim == 2 else np.broadcast_to(values.reshape(-1, 1), (n, 1))


def _bias(node: ir.Node, left: set[str | None]) -> NDArray | None:
    """The bias of a QDQ node as it is stored: float, or int32 codes."""
    value = input_of(node, 2) if is_op(node, "Conv", "Gemm") else None
    adder = only_consumer(node.outputs[0]) if is_op(node, "MatMul") else None
    if adder is not None and is_op(adder, "Add") and adder.name not in left:
        value = next((v for v in adder.inputs if v is not node.outputs[0]), None)
    back = value.producer() if value is not None else None
    if back is not None and is_op(back, "DequantizeLinear"):
        value = back.inputs[0]
    found, is_table = _constants(value), table_of_steps(value) is not None
    return found if found is not None and found.ndim == 1 + is_table else None


def _constants(value: ir.Value | None) -> NDArray | None:
    """A constant, or the table of those that the time step chooses from."""
    table = table_of_steps(value)
    return constant(value) if table is None else table.rows


def _equal(a: NDArray | None, b: NDArray | None) -> bool:
    return (a is None or not a.size) == (b is None) and (b is None or np.array_equal(a, b))  # type: ignore[arg-type]


def _multiplier(node: ir.Node, original: ir.Node, scale: NDArray, n: int) -> NDArray:
    source = original.inputs[0]
    back = source.producer() if source is not None else None
    x_scale = _constants(back.inputs[1]) if back is not None else None
    assert x_scale is not None and back is not None
    x_scale = x_scale.reshape((-1, 1) if table_of_steps(back.inputs[1]) is not None else -1)
    w_scale = np.broadcast_to(scale.reshape(-1), (n,))
    is_codes = attribute(node, "output", "codes") == "codes"
    found = multiplier(x_scale, w_scale, output_scale(node) if is_codes else 1.0)
    if attribute(node, "requantize") != "dyadic":
        return found
    return as_operand(found) if is_codes else as_ratios(found)[0]


def check_floats(
    quantized: ir.Model,
    packed: ir.Model,
    runs: list[dict[str, NDArray]],
    count_node: Callable[[], None] = lambda: None,
) -> list[Check]:
    """lower: float and dynamic nodes against ORT's execution of their piece of the QDQ graph.

    runs: the values of the artifact by name. The bound: both sum K terms in f32, so an output may
    differ by 2 · (K + 4) · 2^-23 · (largest |x| · Σ |w| + |bias|), as N14.
    """
    nodes = [n for n in packed.graph if n.domain == DOMAIN and n.op_type in PACKED_OPS]
    nodes = [n for n in nodes if OUTPUT not in n.metadata_props]
    originals = {n.name: n for n in quantized.graph}
    ratio, where, count = 0.0, "", 0
    for node in nodes:
        value, made, read = node.inputs[0], node.outputs[0], read_value(originals[node.name])
        assert value is not None
        dtype = read.dtype
        bounds = [sum_bound(node, run) for run in runs]
        count_node()
        for rows in _row_parts(node, [run[value.name or ""] for run in runs]):
            n = int(node.attributes["N"].value)
            part = None if rows is None else (rows, n)
            piece = piece_between(quantized, [read.name or ""], float_name(node), part=part)
            others = [v.name for v in piece.get_inputs() if v.name != read.name]
            for run, bound in zip(runs, bounds, strict=True):
                x, actual = (as_nchw(node, run[v.name or ""]) for v in (value, made))
                x = rotated(node, x)
                fed = x if dtype is None else x.astype(dtype.numpy(), copy=False)
                if isinstance(rows, np.ndarray):
                    fed = np.searchsorted(rows, x % n).astype(x.dtype)
                feed = {read.name: fed} | {name: run[name] for name in others}
                expected = piece.run(None, feed)[0]
                limits = np.broadcast_to(bound(largest_input(node, x)), actual.shape)
                if attribute(node, "output") == "i32":  # N17: one rounding, in units of its scale
                    expected = expected / float(node.metadata_props["qcompile.scale"])
                    limits = limits + 0.5
                if isinstance(rows, slice):
                    actual, limits = actual[..., rows], limits[..., rows]
                gap = float_ratio(expected, actual, limits)
                count += actual.size
                if not gap <= ratio:
                    ratio, where = gap, node.name or ""
    text = "|difference from the QDQ node| ÷ the rounding of its sums"
    return [Check("lower: QDQ, floats", ratio, 1.0, text, where, count)] if nodes else []


def _row_parts(node: ir.Node, inputs: list[NDArray]) -> list[slice | NDArray[np.int64] | None]:
    """Rows of a large weight, which ONNX Runtime dequantizes whole to float32: outputs of a product
    in parts, of a table those that the indices name.
    """
    n, k = (int(node.attributes[name].value) for name in ("N", "K"))
    if n * k <= _WHOLE_ELEMENTS or node.op_type == "QConv":
        return [None]
    if node.op_type == "QGather":
        return [np.unique(np.concatenate([x.ravel() % n for x in inputs])).astype(np.int64)]
    step = max(1, _WHOLE_ELEMENTS // k)
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def read_value(node: ir.Node) -> ir.Value:
    """The static codes, float value or indices that a QDQ node reads through its quantizer."""
    value = node.inputs[1 if is_op(node, "Gather") else 0]
    assert value is not None
    back = value.producer()
    if back is not None and is_op(back, "DequantizeLinear") and back.inputs[0] is not None:
        return back.inputs[0]
    if back is None or not is_op(back, "Dequantize", domain=DOMAIN):
        return value
    forth = back.inputs[0].producer() if back.inputs[0] is not None else None
    if forth is None or not is_op(forth, "Quantize", domain=DOMAIN) or forth.inputs[0] is None:
        return value
    return forth.inputs[0]
