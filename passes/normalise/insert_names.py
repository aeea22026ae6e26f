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


class InsertNames(ir.passes.InPlacePass):
    """Names, then shape inference."""

    stage = "normalise"
    name = "insert_names"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name what has none."""
        modified = common.NameFixPass()(model).modified
        seen: set[str] = set()
        for node in model.graph:
            wanted = node.name or f"{node.op_type}_{node.outputs[0].name}"
            name, number = wanted, 1
            while name in seen:
                name, number = f"{wanted}_{number}", number + 1
            seen.add(name)
            modified = modified or name != node.name
            node.name = name
        inferred = common.ShapeInferencePass()(model)
        return ir.passes.PassResult(model, modified or inferred.modified)
