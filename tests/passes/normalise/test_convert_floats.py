# SPDX-License-Identifier: Apache-2.0
"""Graphs of narrow floats compute in float32 and keep the types of their inputs and outputs."""

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common
import pytest

from qcompile.passes.normalise.convert_floats import ConvertFloats
from qcompile.session import open_model, session_options
from tests.passes.graphs import lines_of, parse

RNG = np.random.default_rng(5)
HALF = ir.DataType.FLOAT16
MATRIX = (RNG.integers(-4, 5, (3, 3)) / 4).astype(np.float16)

# Integers and quarters: float16 is exact, so float32 must give the same.
GRAPHS = {
    "product": """f (float16[2,3] x, float16[3,3] w) => (float16[2,3] y)
        { a = MatMul (x, w) y = Relu (a) }""",
    "casts inside": """f (float[2,3] x, float16[3,3] w) => (float[2,3] y)
        { a = Cast <to = 10> (x) b = MatMul (a, w) y = Cast <to = 1> (b) }""",
    "integers in and out": """f (int64[2,3] x, float16[3,3] w) => (int64[2,3] y)
        { a = Cast <to = 10> (x) b = MatMul (a, w) y = Cast <to = 7> (b) }""",
    "one value is two outputs": """f (float16[2,3] x, float16[3,3] w)
        => (float16[2,3] y, float16[2,3] z, float16[2,3] x) { y = MatMul (x, w) z = Relu (y) }""",
    "constants": """f (float16[2,3] x) => (float16[2,3] y, float16[2] z)
        { c = Constant <value = float16[3] {15360, 16384, 15360}> ()  y = Mul (x, c)
          s = Constant <value_ints = [2]> ()
          z = ConstantOfShape <value = float16[1] {16384}> (s) }""",
    "if": """f (bool c, float16[2,3] x, float16[3,3] w) => (float16[2,3] y)
        { y = If (c) <then_branch = t () => (float16[2,3] a) { a = MatMul (x, w) },
                      else_branch = e () => (float16[2,3] b) { b = Neg (x) }> }""",
    "loop": """f (float16[2,3] x, float16[3,3] w) => (float16[2,3] y)
        { n = Constant <value = int64 {2}> () p = Constant <value = bool {1}> ()
          y = Loop (n, p, x) <body = b (int64 i, bool q, float16[2,3] a)
              => (bool r, float16[2,3] z) { r = Identity (q) z = MatMul (a, w) }> }""",
    "cast like": """f (float[2,3] x, float16[3,3] w) => (float16[2,3] y)
        { a = CastLike (x, w) y = MatMul (a, w) }""",
}


def with_weight(text: str, dtype: ir.DataType = HALF) -> ir.Model:
    """The graph with MATRIX in place of its input w, and types for all values."""
    model = parse(text)
    for value in [v for v in model.graph.inputs if v.name == "w"]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(MATRIX.astype(dtype.numpy()), name="w")
        model.graph.register_initializer(value)
    common.ShapeInferencePass()(model)
    return model


def run(model: ir.Model) -> list[np.ndarray]:
    rng, feed = np.random.default_rng(1), {}
    for value in model.graph.inputs:
        array = rng.integers(0, 2, [int(d) for d in value.shape])
        feed[value.name] = array.astype(value.dtype.numpy())
    return open_model(model, session_options(1, optimise=False)).run(None, feed)


def inner_types(model: ir.Model) -> set[ir.DataType]:
    """Types of what is computed, Casts to outputs left out."""
    outputs = set(model.graph.outputs)
    found = {v.dtype for n in model.graph.all_nodes() for v in n.outputs if v not in outputs}
    return found | {v.dtype for v in model.graph.initializers.values() if v not in outputs}


@pytest.mark.parametrize("case", GRAPHS)
def test_same_numbers_and_types(case: str) -> None:
    model = with_weight(GRAPHS[case])
    expected = run(model)
    interface = [(v.name, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)]
    assert ConvertFloats()(model).modified
    assert [(v.name, v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)] == interface
    assert HALF not in inner_types(model)
    for found, wanted in zip(run(model), expected, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_casts_inside_go() -> None:
    model = with_weight(GRAPHS["casts inside"])
    ConvertFloats()(model)
    assert [n.op_type for n in model.graph] == ["MatMul"]


def test_bfloat16() -> None:
    text = GRAPHS["casts inside"].replace("to = 10", "to = 16").replace("float16", "bfloat16")
    model = with_weight(text, ir.DataType.BFLOAT16)
    ConvertFloats()(model)
    expected = run(with_weight(GRAPHS["casts inside"]))
    np.testing.assert_array_equal(run(model)[0], expected[0])


def test_doubles_where_a_weight_is_one() -> None:
    model = with_weight(GRAPHS["product"].replace("float16", "double"), ir.DataType.DOUBLE)
    assert ConvertFloats()(model).modified
    assert ir.DataType.DOUBLE not in inner_types(model)


@pytest.mark.parametrize(
    "text",
    [
        "f (float[2] x) => (float[2] y) { y = Relu (x) }",
        """f (float[2] x) => (float[2] y)
        { a = Cast <to = 11> (x) b = Mul (a, a) y = Cast <to = 1> (b) }""",
        """f (float16[2] x, float16[2] z) => (float16[2] y) { i = Constant <value = int64 {0}> ()
        s = SequenceConstruct (x, z) y = SequenceAt (s, i) }""",
        "f (float16[2] x) => (float16[2] y) { y = local.Own (x) }",
    ],
    ids=["float32", "precision is wanted", "a sequence", "another domain"],
)
def test_left_alone(text: str) -> None:
    model = parse(text)
    before = lines_of(model)
    assert not ConvertFloats()(model).modified
    assert lines_of(model) == before


def test_weights_are_read_late() -> None:
    model = with_weight(GRAPHS["product"])
    ConvertFloats()(model)
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)
