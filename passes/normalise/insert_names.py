# SPDX-License-Identifier: Apache-2.0
"""Give every node and value a unique name, and every value the shape and type that ONNX infers.

Before:
    f (float[2] x) => (y) { y = Relu (x) }
After:
    f (float[2] x) => (float[2] y) { [Relu_y] y = Relu (x) }
Refuses: nothing.

Existing names of the main graph stay. Those inside If, Loop and Scan get the path of their body
before them, `loop/body/x`, so that no name stands for two things. From here on names are frozen:
plans, recipes and reports use them.
"""

import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.bodies import all_bodies
from qcompile.graph import values
from qcompile.passes.normalise.schema_types import infer_types
from qcompile.shape_inference import infer_shapes


class InsertNames(ir.passes.InPlacePass):
    """Names, then shape inference."""

    stage = "normalise"
    name = "insert_names"
    is_global = True  # all graphs at once

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name what has none."""
        modified = False
        for node in model.graph.all_nodes():
            if not node.name:
                output = node.outputs[0].name if node.outputs else None
                node.name = f"{node.op_type}_{output}" if output else node.op_type
                modified = True
        modified |= bool(common.NameFixPass()(model).modified)
        for body in all_bodies(model.graph):
            for each in (*body.graph, *values(body.graph)):
                modified |= _put_before(f"{body.path}/", each)
        modified |= infer_shapes(model)
        while infer_types(model):  # what follows may be such an op again
            modified |= infer_shapes(model)
        return ir.passes.PassResult(model, modified)


def _put_before(path: str, each: ir.Node | ir.Value) -> bool:
    if not each.name or each.name.startswith(path):
        return False
    each.name = path + each.name
    return True
