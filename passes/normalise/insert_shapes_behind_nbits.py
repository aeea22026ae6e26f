# SPDX-License-Identifier: Apache-2.0
"""Give the values behind MatMulNBits the types and shapes that ONNX would infer for a MatMul.

Before:
    f (float[M,2] x, uint8[1,1,8] w, float[1] s) => (float[M,1] z)
    { y = com.microsoft.MatMulNBits <K = 2, N = 1, bits = 4, block_size = 16> (x, w, s)
      z = Neg (y) }
After:
    f (float[M,2] x, uint8[1,1,8] w, float[1] s) => (float[M,1] z)
    { y = com.microsoft.MatMulNBits <K = 2, N = 1, bits = 4, block_size = 16> (x, w, s)
      z = Neg (y) }
Refuses: nothing.

ONNX's inference stops at the op, and the later stages need what lies behind it: y is float[M,1]
afterwards.
"""

import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.graph import attribute, values
from qcompile.imported import is_nbits


class InsertShapesBehindNbits(ir.passes.InPlacePass):
    """Inference on a copy that has MatMul in its place."""

    stage = "normalise"
    name = "insert_shapes_behind_nbits"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Types and shapes by name from the copy."""
        if not any(is_nbits(n) for n in model.graph):
            return ir.passes.PassResult(model, False)
        copy = model.clone()
        for number, node in enumerate([n for n in copy.graph if is_nbits(n)]):
            shape = ir.Shape([int(attribute(node, "K")), int(attribute(node, "N"))])
            weight = ir.Value(
                name=f"{node.name}_{number}_shape",
                type=ir.TensorType(ir.DataType.FLOAT),
                shape=shape,
            )
            copy.graph.inputs.append(weight)
            plain = ir.node("MatMul", [node.inputs[0], weight])
            copy.graph.insert_before(node, plain)
            out = node.outputs[0]
            plain.outputs[0].name, name = out.name, out.name
            out.name = f"{name}_before_{number}"
            for i, output in enumerate(copy.graph.outputs):
                if output is out:
                    copy.graph.outputs[i] = plain.outputs[0]
            out.replace_all_uses_with(plain.outputs[0])
            copy.graph.remove(node, safe=True)
        common.ShapeInferencePass()(copy)
        found = {v.name: v for v in values(copy.graph)}
        modified = False
        for value in (v for n in model.graph for v in n.outputs):
            known = found.get(value.name)
            if known is not None and known.type is not None and value.type is None:
                value.type, modified = known.type, True
            if known is not None and known.shape is not None and value.shape is None:
                value.shape, modified = known.shape, True
        return ir.passes.PassResult(model, modified)
