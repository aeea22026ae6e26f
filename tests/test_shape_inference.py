# SPDX-License-Identifier: Apache-2.0
"""Types and shapes from ONNX, and behind com.microsoft ops from ONNX Runtime's schemas."""

import onnx_ir as ir

from qcompile.passes.normalise.schema_types import infer_types
from qcompile.shape_inference import infer_shapes

HEADER = '<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]>\n'


def values(model: ir.Model) -> dict[str, ir.Value]:
    return {v.name: v for node in model.graph.all_nodes() for v in node.outputs}


def test_a_sequence_stays_one() -> None:
    model = ir.from_onnx_text(
        HEADER
        + """f (float[2,n] x) => (float[2,n] y) { i = Constant <value = int64 {0}> ()
        s = SequenceConstruct (x, x)  y = SequenceAt (s, i) }"""
    )
    assert infer_shapes(model)
    assert values(model)["s"].type == ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))


def test_shapes_in_a_branch() -> None:
    model = ir.from_onnx_text(
        HEADER
        + """f (bool c, float[2,3] x) => (y)
        { y = If (c) <then_branch = t () => (float[2,3] b) { a = Neg (x) b = Abs (a) },
                      else_branch = e () => (float[2,3] d) { d = Neg (x) }> }"""
    )
    assert infer_shapes(model)
    assert {name: str(v.shape) for name, v in values(model).items()} == dict.fromkeys(
        "abdy", "[2,3]"
    )


def test_types_behind_a_contrib_op() -> None:
    model = ir.from_onnx_text(
        HEADER
        + """f (float16[2,3] x) => (y)
        { a = com.microsoft.QuickGelu (x)  b = Abs (a)  y = Shape (b) }"""
    )
    infer_shapes(model)
    assert infer_types(model)
    found = {name: v.dtype for name, v in values(model).items()}
    half = ir.DataType.FLOAT16
    assert found == {"a": half, "b": half, "y": ir.DataType.INT64}


def test_nothing_new() -> None:
    model = ir.from_onnx_text(HEADER + "f (float[2] x) => (float[2] y) { y = Relu (x) }")
    assert not infer_shapes(model)
    assert not infer_types(model)
