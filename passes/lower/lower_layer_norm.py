# SPDX-License-Identifier: Apache-2.0
"""Lower a LayerNormalization or RMSNorm of codes, the op or its chain, to QLayerNorm.

Before:
    { y = LayerNormalization (DequantizeLinear (x_codes), gamma, beta)
      y_codes = QuantizeLinear (y) }
After:
    { y_codes = com.qcompile.QLayerNorm (x_codes, y_gamma, y_beta) }
Refuses: the output does not become codes; more axes than one; weights that are computed.

Over the channels of maps it stands between NHWC transposes.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, rank
from qcompile.norms import LAYER_NORM, RMS_NORMS, Norm, norm_at
from qcompile.passes.lower.lowered import op, replace_row_op
from qcompile.passes.lower.qdq import End, Static, end_of, static_of
from qcompile.passes.rewrite import NodePass


class LowerLayerNorm(NodePass):
    """Both normalisations; the statistics are exact (N28)."""

    stage = "lower"
    op_types = (LAYER_NORM, *RMS_NORMS, "Div")

    def match(self, node: ir.Node) -> tuple[Norm, Static, End] | str | None:
        """The normalisation and the codes on both sides."""
        norm = norm_at(node)
        if norm is None or isinstance(norm, str):
            return norm if static_of(node.inputs[0]) is not None else None
        static, end = static_of(norm.source), end_of(norm.output)
        if static is None:
            return None
        return (norm, static, end) if end is not None else "its output does not become codes"

    def rewrite(self, node: ir.Node, found: tuple[Norm, Static, End]) -> None:
        """QLayerNorm in place of all that it is."""
        norm, static, end = found
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        name = norm.output.name or ""
        weights = [
            add_initializer(graph, f"{name}_{kind}", scaled(array, end.scale))
            for kind, array in (("gamma", norm.gamma), ("beta", norm.beta))
        ]
        made = op(
            "QLayerNorm",
            [static.codes, *weights],
            node.name or "",
            f"{name}_row",
            ir.DataType.UINT8,
            mode="layer" if norm.is_centred else "rms",
            epsilon=float(np.float32(norm.epsilon / static.scale**2)),
            x_zero_point=static.zero_point,
            y_zero_point=end.zero_point,
            y_min=end.y_min,
            y_max=end.y_max,
        )
        is_last = norm.axis + 1 == rank(norm.source)
        replace_row_op(made, static, end, norm.inside, is_last=is_last)


def scaled(array: NDArray[np.float32], y_scale: float) -> NDArray[np.float32]:
    """gamma or beta in codes of the output, float32 [K] (N28)."""
    return (array.astype(np.float64) / y_scale).astype(np.float32)
