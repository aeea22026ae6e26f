# SPDX-License-Identifier: Apache-2.0
"""The rung kept codes of verify: weights in codes mean the numbers that the user's model means."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import constant, input_of, is_op
from qcompile.imported import is_nbits
from qcompile.numerics.quantize import dequantize
from qcompile.pieces import piece_between
from qcompile.plan import Plan
from qcompile.spec import QuantSpec
from qcompile.verdict import Check


def check_kept(normalised: ir.Model, quantized: ir.Model, plan: Plan) -> list[Check]:
    """transform: weights in codes mean the same numbers as ONNX Runtime reads in the model."""
    copy = normalised.clone()
    for node in copy.graph:
        if is_nbits(node):
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    kept = {n.name: n for n in quantized.graph}
    wrong, where, count = 0, "", 0
    for node in copy.graph:
        planned = plan.nodes.get(node.name or "")
        if planned is None or not planned.is_imported or not planned.is_quantized:
            continue
        expected, actual = _numbers(copy, node), _kept_numbers(kept[node.name])
        bad = int((expected.reshape(actual.shape) != actual).sum())
        count += actual.size
        if bad:
            wrong, where = wrong + bad, node.name or ""
    text = "weights that differ from the model's own"
    return [Check("transform: kept codes", wrong, 0, text, where, count)] if count else []


def _numbers(model: ir.Model, node: ir.Node) -> NDArray:
    """The weight [N, ...] as ONNX Runtime decodes it; MatMulNBits shows it by a product with 1."""
    if is_nbits(node):
        x, out = node.inputs[0], node.outputs[0]
        assert x is not None
        identity = np.eye(int(node.attributes["K"].value), dtype=np.float32)
        piece = piece_between(model, [x.name or ""], out.name or "")
        return np.asarray(piece.run(None, {x.name: identity})[0]).T
    value = node.inputs[0 if is_op(node, "Gather") else 1]
    assert value is not None
    found = np.asarray(piece_between(model, [], value.name or "").run(None, {})[0])
    is_kn = is_op(node, "MatMul") or (
        is_op(node, "Gemm")
        and not ("transB" in node.attributes and node.attributes["transB"].value)
    )
    return found.T if is_kn else found


def _kept_numbers(node: ir.Node) -> NDArray[np.float32]:
    """The weight [N, K] that the QDQ graph holds for the node, decoded by numerics (N1)."""
    value = node.inputs[0 if is_op(node, "Gather") else 1]
    back = value.producer() if value is not None else None
    if back is not None and is_op(back, "Transpose") and back.inputs[0] is not None:
        back = back.inputs[0].producer()
    assert back is not None
    spec = QuantSpec.parse(back.outputs[0].metadata_props["qcompile.spec"])
    codes, scale, point = (constant(input_of(back, i)) for i in range(3))
    assert codes is not None and scale is not None
    mask = 0xFF if spec.format.code_max > 127 else -1
    wide = codes.reshape(len(codes), -1).astype(np.int32) & mask
    points = np.zeros(scale.shape, np.int32) if point is None else point.astype(np.int32) & mask
    scales, points = (
        np.repeat(v, spec.block_size, axis=1)[:, : wide.shape[1]]
        if spec.granularity == "block"
        else v.reshape(-1, 1)
        for v in (scale, points)
    )
    return dequantize(wide, scales, points, spec.format)
