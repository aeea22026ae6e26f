# SPDX-License-Identifier: Apache-2.0
"""transform: the codes of every weight against the floats that they stand for."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import FLOAT, constant
from qcompile.memory import row_slices
from qcompile.numerics.quantize import unscaled
from qcompile.numerics.weight import coded_weight
from qcompile.passes.transform.stats import Stats
from qcompile.plan import Plan
from qcompile.spec import QuantSpec
from qcompile.verdict import Check

UNIT = 2.0**-23


def check_weights(
    normalised: ir.Model, quantized: ir.Model, plan: Plan, stats: Stats
) -> list[Check]:
    """transform: every weight is within half a step of its codes where it is not clipped.

    Compensated weights are not: check_compensated judges them.
    """
    floats = {v.name: v for v in normalised.graph.initializers.values()}
    worst, where, count = 0.0, "", 0
    for node in quantized.graph:
        text = node.outputs[0].metadata_props.get("qcompile.spec") if node.outputs else None
        codes = constant(node.inputs[0]) if node.inputs else None
        if text is None or codes is None:
            continue
        if node.outputs[0].metadata_props[FLOAT] in stats.compensated:
            continue
        original = constant(floats.get(node.outputs[0].metadata_props[FLOAT]))
        if original is None:
            continue
        error = weight_error(original, codes, node, QuantSpec.parse(text))
        count += 1
        if not error <= worst:
            worst, where = error, node.outputs[0].name or ""
    return [
        Check(
            "transform: weights", worst, 1.0, "error ÷ half a step, where not clipped", where, count
        )
    ]


def weight_error(original: NDArray, codes: NDArray, node: ir.Node, spec: QuantSpec) -> float:
    """The largest |w − ŵ| ÷ half the distance to the next value, over weights that are in range.

    Of a codebook, which says every weight, infinity where one differs.
    """
    w = original.reshape(codes.shape[0], -1)  # LSTM: [D, N, K] has codes [D · N, K]
    c, shape = codes.reshape(w.shape), w.shape
    if spec.format.has_codebook:
        levels, kind = constant(node.inputs[1]), (spec.format, spec.block_size, spec.scale_format)
        parts = ((w[r], coded_weight(*kind, c, levels, None, r)) for r in row_slices(*shape))
        return 0.0 if all(np.array_equal(v, part.decode()) for v, part in parts) else np.inf
    scale = np.asarray(constant(node.inputs[1]), np.float64)
    point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    points = np.zeros(()) if point is None else _centre(point, spec)
    return max(
        _rows_error(
            w[rows].astype(np.float64),
            _centre(c[rows], spec),
            _wide(scale, shape, rows, spec),
            _wide(points, shape, rows, spec),
            spec,
        )
        for rows in row_slices(*shape)
    )


def _centre(codes: NDArray, spec: QuantSpec) -> NDArray[np.int32]:
    """Codes as numbers; those of uint8 travel as INT8."""
    return codes.astype(np.int32) & (0xFF if spec.format.code_max > 127 else -1)


def _rows_error(w: NDArray, c: NDArray, scale: NDArray, points: NDArray, spec: QuantSpec) -> float:
    low, high = spec.format.quantized_range(symmetric=spec.is_symmetric)
    values = spec.format.values.astype(np.float64)
    real = unscaled(c, points, spec.format).astype(np.float64) * scale
    ends = [(values[np.array([low, high]) - spec.format.code_min]), values]
    least, most = (f(ends[1] if spec.format.is_table else ends[0]) for f in (min, max))
    if spec.format.specials:
        least, most = np.minimum(least, points), np.maximum(most, points)
    else:
        least, most = least - points, most - points
    inside = (w >= least * scale) & (w <= most * scale)
    if spec.sparsity is not None:
        inside &= real != 0  # what sparsity leaves out is not near its code: check_sparse
    ordered = np.unique(values)
    step = float(np.diff(ordered).max()) if len(ordered) > 1 else 1.0
    # f32 division and products round: a tie may fall to the other side by that much
    allowed = scale * step / 2 + 4 * UNIT * np.maximum(np.abs(w), np.abs(real))
    return float((np.abs(w - real) / allowed)[inside].max(initial=0))


def _wide(values: NDArray, shape: tuple[int, int], rows: slice, spec: QuantSpec) -> NDArray:
    """[N], [N, num_blocks] or one value, as the rows [n, K]."""
    if values.ndim < 2:
        return np.broadcast_to(values.reshape(-1, 1), (shape[0], 1))[rows]
    return np.repeat(values[rows], spec.block_size or shape[1], axis=1)[:, : shape[1]]
