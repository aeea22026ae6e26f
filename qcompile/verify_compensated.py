# SPDX-License-Identifier: Apache-2.0
"""Compensated weights in the QDQ graph: judged by the layer's output, not weight by weight."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import FLOAT, constant, input_of
from qcompile.numerics.weight import CodedWeight, coded_weight
from qcompile.passes.transform.code_store import as_matrix
from qcompile.passes.transform.gptq import output_error
from qcompile.passes.transform.insert_low_rank import PARTS
from qcompile.passes.transform.saliency_rank import error_of
from qcompile.passes.transform.stats import Stats
from qcompile.products import weight_of
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

    found = coded_weight(
        spec.format,
        spec.block_size,
        spec.scale_format,
        codes.reshape(rows, -1),
        by_row(scale),
        None if point is None else by_row(point),
    )
    return found if spec.sparsity is None else replace(found, kept=found.values() != 0)


def check_low_rank(normalised: ir.Model, quantized: ir.Model, stats: Stats) -> list[Check]:
    """transform: with its low-rank part every product has less output error on held-out inputs."""
    nodes = {n.name: n for n in quantized.graph}
    floats = {n.name: weight_of(n) for n in normalised.graph if n.name in stats.low_rank}
    ratio, worst = 0.0, ""
    for name, part in stats.low_rank.items():
        value = floats[name]
        assert value is not None and value.const_value is not None
        weight = as_matrix(value.const_value)
        own, inner, outer = (
            _decoded(nodes[n]) for n in (name, *(f"{name}/{word}" for word in PARTS))
        )
        alone = error_of(weight, own, part.inputs)
        with_it = error_of(weight, own + outer @ inner, part.inputs)
        if not with_it <= ratio * alone:
            ratio, worst = with_it / max(alone, 2.0**-1022), name
    if not stats.low_rank:
        return []
    text = "output error with the part ÷ that of the codes alone"
    return [Check("transform: low-rank parts", ratio, 1.0, text, worst, len(stats.low_rank))]


def _decoded(product: ir.Node) -> NDArray[np.float64]:
    """The weight [N, K] of a MatMul, which it reads through a Transpose."""
    turned = input_of(product, 1)
    transpose = None if turned is None else turned.producer()
    assert transpose is not None and transpose.inputs[0] is not None
    node = transpose.inputs[0].producer()
    assert node is not None
    codes = constant(node.inputs[0])
    assert codes is not None
    spec = QuantSpec.parse(node.outputs[0].metadata_props["qcompile.spec"])
    return written_weight(node, codes, spec).decode().astype(np.float64)
