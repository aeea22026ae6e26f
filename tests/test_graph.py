# SPDX-License-Identifier: Apache-2.0
"""Reading and editing graphs: names, constants, outputs; and what fuses with a product."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import (
    add_initializer,
    constant,
    derived_initializer,
    is_constant,
    is_op,
    new_node,
    only_consumer,
    remove_dead,
    replace,
    static_shape,
    unique_name,
)
from qcompile.products import fused_end, weight_of
from tests.passes.graphs import parse

TEXT = """f (float[2] x) => (float[2] y) <float[2] a = {1, 2}>
{ b = Add (x, a)   c = Relu (b)   y = Mul (b, c) }"""


def value(model: ir.Model, name: str) -> ir.Value:
    """By name."""
    found = {v.name: v for n in model.graph for v in (*n.inputs, *n.outputs) if v is not None}
    return found[name]


def test_names_are_numbered_where_taken() -> None:
    model = parse(TEXT)
    assert [unique_name(model.graph, n) for n in ("a", "x", "c", "d")] == ["a_1", "x_1", "c_1", "d"]
    assert add_initializer(model.graph, "a", np.zeros(3)).name == "a_1"
    assert add_initializer(model.graph, "a", np.zeros(3)).name == "a_2"


def test_a_derived_initializer_is_made_once_a_source() -> None:
    model = parse(TEXT)
    source = model.graph.initializers["a"]
    stranger = add_initializer(model.graph, "a_twice", np.zeros(2))
    made = [
        derived_initializer(model.graph, source, "_twice", lambda: ir.tensor(np.ones(2)))
        for _ in range(2)
    ]
    assert made[0] is made[1]
    assert made[0] is not stranger
    copy = model.clone()
    again = derived_initializer(copy.graph, copy.graph.initializers["a"], "_twice", lambda: None)
    assert constant(again).tolist() == [1, 1]


def test_constants_are_what_no_caller_replaces() -> None:
    model = parse(TEXT)
    assert constant(value(model, "a")).tolist() == [1, 2]
    assert constant(value(model, "x")) is None
    model.graph.inputs.append(model.graph.initializers["a"])
    assert constant(value(model, "a")) is None
    assert not is_constant(value(model, "a"))


def test_only_consumer() -> None:
    model = parse(TEXT.replace("Mul (b, c)", "Mul (c, c)"))
    assert only_consumer(value(model, "b")).op_type == "Relu"
    assert only_consumer(value(model, "c")) is None  # read twice
    assert only_consumer(value(model, "y")) is None  # an output
    assert only_consumer(value(parse(TEXT), "b")) is None


@pytest.mark.parametrize("which", ["b", "y"])
def test_replace(which: str) -> None:
    model = parse(TEXT)
    old = value(model, which)
    made = new_node("Neg", [value(model, "x")], "n", "n")
    model.graph.insert_before(next(iter(model.graph)), made)
    replace(old, made.outputs[0])
    assert not old.uses()
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert (model.graph.outputs[0] is made.outputs[0]) == (which == "y")
    assert static_shape(model.graph.outputs[0]) == (2,)


def test_replace_of_an_input_that_is_an_output_keeps_both() -> None:
    model = parse(TEXT)
    x = model.graph.inputs[0]
    model.graph.outputs.append(x)
    made = new_node("Neg", [x], "n", "n")
    model.graph.insert_before(next(iter(model.graph)), made)
    replace(x, made.outputs[0])
    assert (x.name, model.graph.inputs[0], model.graph.outputs[1]) == ("x", x, x)
    assert next(n for n in model.graph if n.op_type == "Add").inputs[0] is made.outputs[0]


def test_remove_dead_goes_backwards_and_spares_what_is_read() -> None:
    model = parse(TEXT.replace("Mul (b, c)", "Neg (b)"))
    nodes = list(model.graph)
    remove_dead(model.graph, nodes)
    assert [n.op_type for n in model.graph] == ["Add", "Neg"]


def test_is_op_knows_domains() -> None:
    node = ir.node("Add", [], domain="com.qcompile")
    assert not is_op(node, "Add")
    assert is_op(node, "Sub", "Add", domain="com.qcompile")
    assert is_op(ir.node("Add", [], domain="ai.onnx"), "Add")
    assert not is_op(None, "Add")


WEIGHTS = (
    "<float[2,2] w = {1, 2, 3, 4}, float[2] k = {1, 2}, float[1,2] row = {1, 2}, float lo = {0}>"
)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("y = MatMul (x, w)", "y"),
        ("m = MatMul (x, w)   y = Add (m, k)", "y"),
        ("m = MatMul (x, w)   y = Add (k, m)", "y"),
        ("m = MatMul (x, w)   a = Add (k, m)   y = Relu (a)", "y"),
        ("m = MatMul (x, w)   r = Relu (m)   y = Add (r, k)", "r"),
        ("m = MatMul (x, w)   y = Add (m, row)", "m"),
        ("m = MatMul (x, w)   y = Add (m, m)", "m"),
        ("m = MatMul (x, w)   y = Clip (m, lo)", "y"),
        ("m = MatMul (x, w)   s = ReduceMax <keepdims = 0> (x)   y = Clip (m, s)", "m"),
        ("m = Gemm (x, w)   y = Add (m, k)", "m"),
        ("m = Gemm (x, w, k)   y = Relu (m)", "y"),
    ],
)
def test_fused_end(body: str, end: str) -> None:
    model = parse(f"f (float[3,2] x) => (float[3,2] y) {WEIGHTS} {{ {body} }}")
    product = next(n for n in model.graph if n.op_type in ("MatMul", "Gemm"))
    assert fused_end(product).name == end


@pytest.mark.parametrize(
    ("body", "weight"),
    [
        ("y = MatMul (x, w)", "w"),
        ("t = Transpose <perm = [1, 0]> (w)   y = MatMul (x, t)", "w"),
        ("t = Transpose <perm = [1, 0]> (w)   y = Gemm (x, t)", None),
        ("t = Transpose <perm = [1, 0]> (x)   y = MatMul (x, t)", None),
        ("y = Gather (w, i)", "w"),
    ],
)
def test_weight_of(body: str, weight: str | None) -> None:
    model = parse(f"f (float[2,2] x, int64[2] i) => (float[2,2] y) {WEIGHTS} {{ {body} }}")
    found = weight_of(list(model.graph)[-1])
    assert (None if found is None else found.name) == weight


def test_two_workers_may_ask_for_one_mapped_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnx_ir asserts that a file is mapped once; the pause makes both workers arrive before."""
    np.arange(4, dtype=np.float32).tofile(tmp_path / "w.data")
    tensor = ir.ExternalTensor(
        "w.data", 0, 16, ir.DataType.FLOAT, name="w", shape=ir.Shape([4]), base_dir=tmp_path
    )
    checked = ir.ExternalTensor._check_validity

    def slowly(self: ir.ExternalTensor) -> None:
        checked(self)
        time.sleep(0.05)

    monkeypatch.setattr(ir.ExternalTensor, "_check_validity", slowly)
    shared = ir.Value(name="w", const_value=tensor)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(constant, [shared, shared]))
    for array in found:
        np.testing.assert_array_equal(array, np.arange(4, dtype=np.float32))
