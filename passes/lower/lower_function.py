# SPDX-License-Identifier: Apache-2.0
"""Lower a function of one code, a chain or diamond of elementwise float ops, to a table.

Before:
    { x = DequantizeLinear (x_codes)   s = Sigmoid (x)   y = Mul (x, s)
      y_codes = QuantizeLinear (y) }
After:
    { y_codes = com.qcompile.QLut (x_codes, table) }
Refuses: nothing. A quantizer right behind a dequantizer of another scale is a table too, and one of
the same scale nothing at all.

The table (N25) is what ONNX Runtime gives for the float ops on the 256 numbers that the codes
stand for, so that the ops have one meaning.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import add_initializer, is_constant, rank, remove_dead, replace
from qcompile.int8_ops import is_function
from qcompile.numerics.lut import CODES, reals_of_codes, table_of
from qcompile.passes.lower.lowered import op, remember
from qcompile.passes.lower.qdq import End, Static, end_at, static_of
from qcompile.passes.rewrite import NodePass
from qcompile.session import open_model, session_options
from qcompile.step_tables import StepTable, insert_row


@dataclass(frozen=True)
class Function:
    """The codes that go in, the float ops in order, the codes that come out."""

    static: Static
    nodes: tuple[ir.Node, ...]
    end: End


class LowerFunction(NodePass):
    """From the quantizer back to the one dequantizer that it depends on."""

    stage = "lower"
    op_types = ("QuantizeLinear",)

    def match(self, node: ir.Node) -> Function | None:
        """The function that ends here."""
        end = end_at(node, by_step=True)
        source = node.inputs[0]
        if end is None or source is None:
            return None
        found: dict[ir.Node, None] = {}
        statics = _sources(source, found)
        if statics is None or len({s.codes for s in statics}) != 1:
            return None
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        inside = tuple(n for n in graph if n in found) if found else ()
        return Function(statics[0], inside, end)

    def rewrite(self, node: ir.Node, found: Function) -> None:
        """The table, or the codes themselves where it changes none."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        static, end = found.static, found.end
        table = _table(found)
        dead = [static.back, *found.nodes, *end.passed]
        if (table == CODES).all() and not end.codes.is_graph_output():
            replace(end.codes, static.codes)
            remove_dead(graph, dead)
            return
        name, out = end.codes.name or "", end.codes
        steps = static.steps or end.steps
        lut = table_node(graph, static.codes, table, node.name or "", f"{name}_function", steps)
        remember(lut, [static.codes], end)
        lut.outputs[0].shape = out.shape
        lut.outputs[0].metadata_props.update(out.metadata_props)
        graph.insert_after(end.passed[-1], lut)
        replace(out, lut.outputs[0])
        remove_dead(graph, dead)
        lut.outputs[0].name = name


def table_node(
    graph: ir.Graph,
    codes: ir.Value,
    table: NDArray[np.uint8],
    name: str,
    output: str,
    steps: StepTable | None = None,
) -> ir.Node:
    """A QLut of the codes; of tables [T, 256] the time step chooses one."""
    if steps is None:
        held = add_initializer(graph, f"{output}_table", table)
    else:
        held = insert_row(graph, steps.index, table, f"{output}_table")
    node = op("QLut", [codes, held], name, output, ir.DataType.UINT8)
    node.outputs[0].shape = codes.shape
    return node


def _sources(value: ir.Value, found: dict[ir.Node, None]) -> list[Static] | None:
    """The dequantized codes that a value is a function of, and in `found` the ops of it."""
    static = static_of(value, by_step=True)
    if static is not None:
        return [static]
    node = value.producer()
    if node is None or not is_function(node):
        return None
    found[node] = None
    statics: list[Static] = []
    for each in node.inputs:
        if each is None or is_constant(each):
            continue
        parts = _sources(each, found)
        if parts is None:
            return None
        statics += parts
    return statics or None


def _table(found: Function) -> NDArray[np.uint8]:
    """uint8 [256], or [T, 256] where the time step chooses a scale on either side."""
    static, end = found.static, found.end
    steps = static.steps or end.steps
    if steps is None:
        return table_of(_values(found, static.scale), end.scale, *_codes_of(end))
    count = len(steps.rows)
    before = [static.scale] * count if static.steps is None else static.steps.rows
    after = [end.scale] * count if end.steps is None else end.steps.rows
    tables = [
        table_of(_values(found, float(x)), float(y), *_codes_of(end))
        for x, y in zip(before, after, strict=True)
    ]
    return np.stack(tables)


def _codes_of(end: End) -> tuple[int, int, int]:
    return end.zero_point, end.y_min, end.y_max


def _values(found: Function, scale: float) -> NDArray[np.float32]:
    """The function's value for every code of that scale, float32 [256]."""
    reals = reals_of_codes(scale, found.static.zero_point)
    if not found.nodes:
        return reals
    dims = [1] * ((rank(found.static.back.outputs[0]) or 1) - 1) + [len(reals)]
    session = open_model(function_model(found.nodes, dims), session_options(1, optimise=False))
    given = {"x": reals.reshape(dims)}
    return np.asarray(session.run(None, given)[0], np.float32).ravel()


def function_model(nodes: tuple[ir.Node, ...], dims: list[int]) -> ir.Model:
    """Copies of the nodes as a model of x [dims]."""
    graph = nodes[0].graph
    assert isinstance(graph, ir.Graph)
    source = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
    constants: dict[ir.Value, ir.Value] = {}
    made: dict[ir.Value, ir.Value] = {}
    copies: list[ir.Node] = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and is_constant(value) and value not in constants:
                constants[value] = ir.Value(
                    name=value.name,
                    type=value.type,
                    shape=value.shape,
                    const_value=value.const_value,
                )
        known = constants | made
        inputs = [None if v is None else known.get(v, source) for v in node.inputs]
        copy = ir.node(node.op_type, inputs, domain=node.domain)
        copy.attributes.update(node.attributes)
        copy.outputs[0].name = node.outputs[0].name
        made[node.outputs[0]] = copy.outputs[0]
        copies.append(copy)
    result = copies[-1].outputs[0]
    result.type = ir.TensorType(ir.DataType.FLOAT)
    piece = ir.Graph(
        [source],
        [result],
        nodes=copies,
        initializers=list(constants.values()),
        opset_imports=dict(graph.opset_imports),
        name="function",
    )
    return ir.Model(piece, ir_version=8)
