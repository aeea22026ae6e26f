# SPDX-License-Identifier: Apache-2.0
"""Tables in a graph that the time step chooses a row of, and how they are read back.

{ t_first = Gather (Reshape (t, [-1]), 0)    t_known = Clip (t_first, 0, largest)
  t_bucket = Gather (buckets, t_known)       x_scale = Gather (x_scale_table, t_bucket) }
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, constant, new_node, unique_name

# Metadata. STEP, of a Gather from a table and of a compiled node that writes codes of such a scale:
# the value that holds the bucket. BUCKET, of the node that gives it: the input with the time step.
STEP, BUCKET = "qcompile.step", "qcompile.bucket"


@dataclass(frozen=True)
class Buckets:
    """of_step: int64 [largest step + 1], the bucket of every time step, which `input` holds."""

    input: str
    of_step: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Rows of a table."""
        return int(self.of_step[-1]) + 1

    def of(self, step: int) -> int:
        """The bucket of a step; one beyond the ends is in the last one there.

        >>> Buckets("t", np.array([0, 0, 1])).of(7)
        1
        """
        return int(self.of_step[min(max(step, 0), len(self.of_step) - 1)])


@dataclass(frozen=True)
class StepTable:
    """A number or vector for each bucket, [T, …]; index: the value that holds the bucket."""

    rows: NDArray
    index: ir.Value


def table_of_steps(value: ir.Value | None) -> StepTable | None:
    """The table that the value is a row of; None where it is no such row."""
    node = None if value is None else value.producer()
    if node is None or STEP not in node.metadata_props:
        return None
    rows, index = constant(node.inputs[0]), node.inputs[1]
    return None if rows is None or index is None else StepTable(rows, index)


def buckets_of_table(scale: ir.Value) -> Buckets:
    """The buckets of the time step that chooses a row of a table."""
    table = table_of_steps(scale)
    maker = None if table is None else table.index.producer()
    of_step = None if maker is None else constant(maker.inputs[0])
    assert maker is not None and of_step is not None
    return Buckets(maker.metadata_props[BUCKET], of_step)


def insert_bucket(graph: ir.Graph, buckets: Buckets) -> ir.Value:
    """The value that holds the bucket of the time step, int64 []; made once a graph."""
    for node in graph:
        if node.metadata_props.get(BUCKET) == buckets.input:
            return node.outputs[0]
    name = unique_name(graph, f"{buckets.input}_bucket")
    step = next(v for v in graph.inputs if v.name == buckets.input)
    int64 = ir.DataType.INT64
    scalar, end = ir.Shape([]), len(buckets.of_step) - 1

    def number(suffix: str, value: int | list[int]) -> ir.Value:
        return add_initializer(graph, f"{name}_{suffix}", np.array(value, np.int64))

    wide = new_node("Cast", [step], f"{name}/cast", f"{name}_wide", dtype=int64, to=int(int64))
    flat = new_node(
        "Reshape",
        [wide.outputs[0], number("shape", [-1])],
        f"{name}/flat",
        f"{name}_flat",
        dtype=int64,
    )
    first = _gather(flat.outputs[0], number("first", 0), f"{name}_step", int64, scalar)
    inputs = [first.outputs[0], number("least", 0), number("largest", end)]
    known = new_node(
        "Clip", inputs, f"{name}/clip", f"{name}_known", dtype=int64, shape=ir.Shape([])
    )
    table = add_initializer(graph, f"{name}_table", buckets.of_step)
    bucket = _gather(table, known.outputs[0], name, int64, ir.Shape([]))
    bucket.metadata_props[BUCKET] = buckets.input
    graph.insert_before(next(iter(graph)), [wide, flat, first, known, bucket])
    return bucket.outputs[0]


def insert_row(
    graph: ir.Graph, index: ir.Value, table: NDArray | ir.TensorProtocol, name: str
) -> ir.Value:
    """The row of a table [T, …] that the bucket chooses, a value of that name."""
    held, name = add_initializer(graph, f"{name}_table", table), unique_name(graph, name)
    assert held.dtype is not None and held.shape is not None
    node = _gather(held, index, name, held.dtype, ir.Shape(list(held.shape)[1:]))
    node.metadata_props[STEP] = index.name or ""
    maker = index.producer()
    assert maker is not None
    graph.insert_after(maker, node)
    return node.outputs[0]


def _gather(
    table: ir.Value, index: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape
) -> ir.Node:
    return new_node(
        "Gather", [table, index], f"{name}/gather", name, dtype=dtype, shape=shape, axis=0
    )
