# SPDX-License-Identifier: Apache-2.0
"""Every node and value has a unique name, a shape and a type."""

import onnx_ir as ir

from qcompile.passes.normalise.insert_names import InsertNames
from tests.passes.graphs import HEADER, assert_equal_outputs, assert_left_alone, lines_of, parse

NAMED = "f (float[2] x) => (float[2] y) { [a] z = Relu (x)   [b] y = Neg (z) }"


def test_nodes_are_named_after_their_output() -> None:
    model = parse("f (float[2] x) => (float[2] y) { z = Relu (x)   y = Neg (z) }")
    assert InsertNames()(model).modified
    assert [n.name for n in model.graph] == ["Relu_z", "Neg_y"]


def test_equal_names_are_numbered() -> None:
    model = parse("f (float[2] x) => (float[2] y) { [a] z = Relu (x)   [a] y = Neg (z) }")
    assert InsertNames()(model).modified
    assert len({n.name for n in model.graph}) == 2
    assert next(iter(model.graph)).name == "a"


def test_shapes_and_types_are_inferred() -> None:
    text = "f (float[n,3] x) => (y) { z = Transpose <perm = [1, 0]> (x)   y = Relu (z) }"
    model = ir.from_onnx_text(HEADER + text)
    assert InsertNames()(model).modified
    for node in model.graph:
        assert str(node.outputs[0].shape) == "[3,n]"
        assert node.outputs[0].dtype == ir.DataType.FLOAT


def test_existing_names_stay() -> None:
    model = parse(NAMED)
    before = lines_of(model)
    InsertNames()(model)
    assert lines_of(model) == before
    assert [n.name for n in model.graph] == ["a", "b"]
    assert_equal_outputs(parse(NAMED), model)


def test_a_second_run_changes_nothing() -> None:
    model = parse(NAMED)
    InsertNames()(model)
    assert not InsertNames()(model).modified


def test_left_alone() -> None:
    assert_left_alone(InsertNames(), "f (float[2] x) => (float[2] y) { [b] y = Neg (x) }")
