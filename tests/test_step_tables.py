# SPDX-License-Identifier: Apache-2.0
"""Rows of tables that a time step chooses, in a graph that ONNX Runtime runs."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile.session import open_model, session_options
from qcompile.step_tables import (
    Buckets,
    buckets_of_table,
    insert_bucket,
    insert_row,
    table_of_steps,
)
from tests.passes.graphs import parse

BUCKETS = Buckets("t", np.array([0, 0, 1, 2, 2]))
TABLE = np.array([[1.0, 2], [3, 4], [5, 6]], np.float32)


def chosen(kind: str, dims: str) -> ir.Model:
    """y = x + the row of the step."""
    model = parse(f"f (float[2] x, {kind}{dims} t) => (float[2] y) {{ y = Identity (x) }}")
    graph = model.graph
    row = insert_row(graph, insert_bucket(graph, BUCKETS), TABLE, "row")
    node = next(n for n in graph if n.op_type == "Identity")
    added = ir.node("Add", [graph.inputs[0], row])
    added.outputs[0].name = "sum"
    graph.insert_before(node, added)
    node.replace_input_with(0, added.outputs[0])
    return model


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize(("dims", "shape"), [("", ()), ("[1]", (1,)), ("[n]", (3,))])
def test_the_row_of_the_step(kind: str, dims: str, shape: tuple[int, ...]) -> None:
    """Steps beyond the ends have the first and the last bucket."""
    session = open_model(chosen(kind, dims), session_options())
    zero = np.zeros(2, np.float32)
    for step, bucket in ((-3, 0), (0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (10**6, 2)):
        t: NDArray = np.full(shape, step, kind)
        np.testing.assert_array_equal(session.run(None, {"x": zero, "t": t})[0], TABLE[bucket])
        assert BUCKETS.of(step) == bucket


def test_the_bucket_is_made_once_and_tables_are_read_back() -> None:
    graph = chosen("int64", "").graph
    index = insert_bucket(graph, BUCKETS)
    assert [n.op_type for n in graph].count("Clip") == 1
    row = next(v for n in graph for v in n.outputs if v.name == "row")
    found = table_of_steps(row)
    assert found is not None and found.index is index
    np.testing.assert_array_equal(found.rows, TABLE)


def test_names_of_the_user_are_kept() -> None:
    """Values of the model that have the names of ours are no buckets and no rows."""
    body = "t_bucket = Cast <to = 7> (x)   row = Neg (x)   y = Neg (row)"
    graph = parse(f"f (float[2] x, int64 t) => (float[2] y, int64[2] t_bucket) {{ {body} }}").graph
    index = insert_bucket(graph, BUCKETS)
    row = insert_row(graph, index, TABLE, "row")
    assert (index.name, row.name) == ("t_bucket_1", "row_1")
    assert buckets_of_table(row).input == "t"
    np.testing.assert_array_equal(buckets_of_table(row).of_step, BUCKETS.of_step)


def test_other_values_are_no_rows() -> None:
    """A Gather of the user's own, a constant, nothing."""
    model = parse(
        "f (int64 t) => (float[2] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}> { y = Gather (w, t) }"
    )
    (node,) = model.graph
    assert table_of_steps(node.outputs[0]) is None
    assert table_of_steps(node.inputs[0]) is None
    assert table_of_steps(None) is None
