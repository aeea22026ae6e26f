# SPDX-License-Identifier: Apache-2.0
"""Give each product of ONNX Runtime's its own name of a weight that several of them share.

Before:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)
      y = Gemm (x, w)   z = Gemm (y, w) }
After:
    { w = DequantizeLinear <axis = 0> (w_codes, w_scale)   y = Gemm (x, w)
      w_1 = DequantizeLinear <axis = 0> (w_codes_1, w_scale)   z = Gemm (y, w_1) }
Refuses: nothing.

ONNX Runtime does not open the model otherwise on processors without VNNI (qcompile/own_weights.py).
Equal bytes are written once, so the file does not grow.
"""

import onnx_ir as ir

from qcompile.own_weights import split_shared_weights


class SplitSharedWeight(ir.passes.InPlacePass):
    """Weights and zero points of int8, of whatever op."""

    stage = "lower"
    name = "split_shared_weight"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """All of the graph at once."""
        return ir.passes.PassResult(model, split_shared_weights(model.graph))
