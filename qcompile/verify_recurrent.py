# SPDX-License-Identifier: Apache-2.0
"""Every DynamicQuantizeLSTM of the artifact against the LSTM of the QDQ graph."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import constant, input_of
from qcompile.passes.lower.lower_lstm_into_dynamic_quantize_lstm import PLACES, QUANTIZED_LSTM
from qcompile.passes.lower.qdq import weight_codes_of
from qcompile.verdict import Check

BIAS, PEEPHOLES = 3, 7


def check_recurrent(quantized: ir.Model, packed: ir.Model) -> list[Check]:
    """lower: weights less their zero points, scales, biases and attributes are the QDQ graph's."""
    originals = {n.name: n for n in quantized.graph}
    theirs = {name for name, n in originals.items() if n.op_type == QUANTIZED_LSTM}
    nodes = [n for n in packed.graph if n.op_type == QUANTIZED_LSTM and n.name not in theirs]
    if not nodes:
        return []
    wrong = [f"{n.name} ({what})" for n in nodes for what in _differences(n, originals[n.name])]
    source = "constants that differ from the QDQ graph's"
    return [Check("lower: recurrent", len(wrong), 0, source, ", ".join(wrong[:4]), len(nodes))]


def _differences(node: ir.Node, original: ir.Node) -> list[str]:
    found = []
    for places in PLACES:
        codes, scale, point = (_array(node, i) for i in places)
        given = original.inputs[places[0]]
        reshape = given.producer() if given is not None else None
        weight = weight_codes_of(reshape.inputs[0]) if reshape is not None else None
        expected = None if weight is None else (constant(weight.codes), constant(weight.scale))
        if expected is None or expected[0] is None or expected[1] is None:
            found.append(f"input {places[0]} has no codes in the QDQ graph")
            continue
        centred = codes.transpose(0, 2, 1).astype(np.int32) - point[:, :, None]
        if not np.array_equal(centred.reshape(expected[0].shape), expected[0]):
            found.append(f"codes of input {places[0]}")
        if not np.array_equal(scale.ravel(), expected[1]):
            found.append(f"scale of input {places[0]}")
    for index in (BIAS, PEEPHOLES):
        ours, theirs = constant(input_of(node, index)), constant(input_of(original, index))
        if (ours is None) != (theirs is None) or not _equal(ours, theirs):
            found.append(f"input {index}")
    if _attributes(node) != _attributes(original):
        found.append("attributes")
    return found


def _array(node: ir.Node, index: int) -> NDArray:
    found = constant(input_of(node, index))
    assert found is not None
    return found


def _equal(a: NDArray | None, b: NDArray | None) -> bool:
    return a is None or b is None or np.array_equal(a, b)


def _attributes(node: ir.Node) -> dict[str, object]:
    """What ONNX writes for both ops; layout is 0."""
    return {name: each.value for name, each in node.attributes.items() if name != "layout"}
