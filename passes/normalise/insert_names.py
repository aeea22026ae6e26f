# SPDX-License-Identifier: Apache-2.0
"""Give every node and value a unique name, and every value the shape and type that ONNX infers.

Before:
    f (float[2] x) => (y) { y = Relu (x) }
After:
    f (float[2] x) => (float[2] y) { [Relu_y] y = Relu (x) }
Refuses: nothing.

Existing names stay; from here on names are frozen: plans, recipes and reports use them.
"""

import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.passes.normalise.schema_types import infer_types
from qcompile.passes.normalise.shape_inference import infer_shapes


class InsertNames(ir.passes.InPlacePass):
    """Names, then shape inference."""

    stage = "normalise"
    name = "insert_names"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name what has none."""
        modified = False
        for node in model.graph.all_nodes():
            if not node.name:
                output = node.outputs[0].name if node.outputs else None
                node.name = f"{node.op_type}_{output}" if output else node.op_type
                modified = True
        modified |= bool(common.NameFixPass()(model).modified)
        modified |= infer_shapes(model)
        while infer_types(model):  # what follows may be such an op again
            modified |= infer_shapes(model)
        return ir.passes.PassResult(model, modified)
