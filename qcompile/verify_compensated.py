# SPDX-License-Identifier: Apache-2.0
"""Compensated weights in the QDQ graph: judged by the layer's output, not weight by weight."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import FLOAT, constant
from qcompile.numerics.weight import CodedWeight, coded_weight
from qcompile.passes.transform.code_store import as_matrix
from qcompile.passes.transform.gptq import output_error
from qcompile.passes.transform.stats import Stats
from qcompile.spec import QuantSpec
from qcompile.verdict import Check

# Both errors are float64 sums of the same numbers, in one order: only the last bits may differ.
_SAME = 2.0**-40


def check_compensated(normalised: ir.Model, quantized: ir.Model, stats: Stats) -> list[Check]:
    """transform: compensated codes, scales and zero points give the output error on held-out inputs
    that they were accepted for, which is below that of the nearest codes.
    """
    floats = {v.name: v for v in normalised.graph.initializers.values()}
    ratio, difference, worst, other, count = 0.0, 0.0, "", "", 0
    for node in quantized.graph:
        text = node.outputs[0].metadata_props.get("qcompile.spec") if node.outputs else None
        name = node.outputs[0].metadata_props.get(FLOAT, "") if node.outputs else ""
        codes = constant(node.inputs[0]) if node.inputs else None
        if text is None or codes is None or name not in stats.compensated:
            continue
        expected = stats.compensated[name]
        tensor = floats[name].const_value
        assert tensor is not None
        coded = written_weight(node, codes, QuantSpec.parse(text))
        error = output_error(as_matrix(tensor), coded, expected.inputs.read())
        gap = abs(error - expected.error) / max(expected.error, 2.0**-1022)
        count += 1
        if not error / expected.nearest_error <= ratio:
            ratio, worst = error / expected.nearest_error, name
        if not gap <= difference:
            difference, other = gap, name
    if not count:
        return []
    rung, changed = "transform: compensated weights", "change of that error since calibration"
    return [
        Check(rung, ratio, 1.0, "output error ÷ that of the nearest codes", worst, count),
        Check(rung, difference, _SAME, changed, other, count),
    ]


def written_weight(node: ir.Node, codes: NDArray, spec: QuantSpec) -> CodedWeight:
    """The weight [N, K] that a Dequantize of the QDQ graph reads."""
    rows = len(codes)
    scale = np.asarray(constant(node.inputs[1]), np.float32)
    point = constant(node.inputs[2]) if len(node.inputs) > 2 else None

    def by_row(part: NDArray) -> NDArray:
        table = part if part.ndim == 2 else part.reshape(-1, 1)
        return np.broadcast_to(table, (rows, table.shape[1]))

    return coded_weight(
        spec.format,
        spec.block_size,
        spec.scale_format,
        codes.reshape(rows, -1),
        by_row(scale),
        None if point is None else by_row(point),
    )
