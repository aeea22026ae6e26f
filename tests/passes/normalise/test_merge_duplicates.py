# SPDX-License-Identifier: Apache-2.0
"""Equal initializers and equal nodes become one."""

import onnx_ir as ir
import pytest

from qcompile.passes.normalise.merge_duplicates import MergeDuplicates
from tests.passes.graphs import (
    assert_equal_outputs,
    assert_left_alone,
    assert_rewritten,
    parse,
)


def test_equal_weights() -> None:
    assert_rewritten(
        MergeDuplicates(),
        """f (float[1,2] x) => (float[1,2] y)
        <float[2,2] a = {1, 2, 3, 4}, float[2,2] b = {1, 2, 3, 4}>
        { c = MatMul (x, a)   y = MatMul (c, b) }""",
        """f (float[1,2] x) => (float[1,2] y) <float[2,2] a = {1, 2, 3, 4}>
        { c = MatMul (x, a)   y = MatMul (c, a) }""",
    )


def test_equal_nodes() -> None:
    assert_rewritten(
        MergeDuplicates(),
        "f (float[2] x) => (float[2] y) { a = Relu (x)   b = Relu (x)   y = Add (a, b) }",
        "f (float[2] x) => (float[2] y) { a = Relu (x)   y = Add (a, a) }",
    )


def test_chains_of_equal_nodes_on_equal_constants() -> None:
    assert_rewritten(
        MergeDuplicates(),
        """f (float[2] x) => (float[2] y) <float[2] p = {1, 2}, float[2] q = {1, 2}>
        { a = Mul (x, p)  b = Mul (x, q)  c = Neg (a)  d = Neg (b)  y = Add (c, d) }""",
        """f (float[2] x) => (float[2] y) <float[2] p = {1, 2}>
        { a = Mul (x, p)   c = Neg (a)   y = Add (c, c) }""",
    )


def test_equal_graph_outputs_keep_their_names() -> None:
    text = "f (float[2] x) => (float[2] y, float[2] z) { y = Relu (x)   z = Relu (x) }"
    model = parse(text)
    MergeDuplicates()(model)
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    "text",
    [
        """f (float[2] x) => (float[2] y) <float[2] a = {0, 1}, float[2] b = {-0.0, 1}>
        { c = Div (x, a)   y = Div (c, b) }""",
        """f (float[1,2] x) => (float[2] y) <float[2] a = {0, 1}, float[1,2] b = {0, 1}>
        { c = Add (x, a)   y = Add (c, b) }""",
        """f (float[2] x, int32[2] z) => (float[2] y, int32[2] u)
        <float[2] a = {0, 0}, int32[2] b = {0, 0}> { y = Add (x, a)   u = Add (z, b) }""",
        "f (float[2] x) => (float[2] y, float[2] b) <float[2] a = {1, 2}, float[2] b = {1, 2}> "
        "{ y = Add (x, a) }",
        """f (float[2] x) => (float[2] y)
        { a = RandomNormal <shape = [2]> ()  b = RandomNormal <shape = [2]> ()
          c = Add (a, x)   y = Add (b, c) }""",
        """f (float[2,2] x) => (float[2,2] y)
        { a = Transpose <perm = [1, 0]> (x)  b = Transpose <perm = [0, 1]> (x)  y = Add (a, b) }""",
    ],
    ids=["-0 and 0", "shapes", "types", "a graph output", "random", "attributes"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(MergeDuplicates(), text)


def test_a_type_among_the_attributes() -> None:
    """onnx_ir cannot hash it: the nodes stay, equal constants still become one."""
    model = parse("f (float[2] x) => (float[2] y) { a = Neg (x)   b = Neg (x)   y = Add (a, b) }")
    held = ir.TypeAndShape(ir.TensorType(ir.DataType.FLOAT), ir.Shape([2]))
    model.graph[0].attributes["type"] = ir.Attr("type", ir.AttributeType.TYPE_PROTO, held)
    assert not MergeDuplicates()(model).modified and len(model.graph) == 3
