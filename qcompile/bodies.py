# SPDX-License-Identifier: Apache-2.0
"""The bodies of If, Loop and Scan: each is compiled as a model of its own.

A body reads values of the graphs around it. `opened` makes them inputs of the body and of its
holder, so that a pass sees one whole graph at a time; `closed` gives a copy of one body as a model
that runs. What a captured value is called inside its body is kept on the holder, because passes
may rename the value outside.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir

from qcompile.graph import is_op

HOLDERS = ("If", "Loop", "Scan")
CAPTURES = "qcompile.captures"  # metadata of a holder: attribute → {name outside: name inside}


@dataclass(frozen=True)
class Body:
    """A branch of an If, or the body of a Loop or Scan."""

    holder: ir.Node
    attribute: str
    graph: ir.Graph

    @property
    def path(self) -> str:
        """What its nodes' and values' names begin with."""
        return f"{self.holder.name}/{self.attribute}"


def bodies_in(graph: ir.Graph) -> Iterator[Body]:
    """The bodies of the graph's own nodes, not those inside them."""
    for node in graph:
        if is_op(node, *HOLDERS):
            for name, held in sorted(node.attributes.items()):
                if held.type == ir.AttributeType.GRAPH:
                    yield Body(node, name, held.as_graph())


def all_bodies(graph: ir.Graph) -> Iterator[Body]:
    """All bodies, an outer one before those inside it."""
    for body in bodies_in(graph):
        yield body
        yield from all_bodies(body.graph)


def compiled_graphs(model: ir.Model) -> list[ir.Graph]:
    """The main graph and all bodies."""
    return [model.graph, *(body.graph for body in all_bodies(model.graph))]


def nodes_of(model: ir.Model) -> list[ir.Node]:
    """The nodes of the main graph and of all bodies."""
    return [node for graph in compiled_graphs(model) for node in graph]


def captured(graph: ir.Graph) -> list[ir.Value]:
    """The values of outer graphs that the body reads, itself or deeper, in the order of use."""
    inside, used = _values(graph)
    return [value for value in dict.fromkeys(used) if value not in inside]


def _values(graph: ir.Graph) -> tuple[set[ir.Value], list[ir.Value]]:
    """What the graph and those inside it make, and what they read."""
    made = {*graph.inputs, *graph.initializers.values()}
    used: list[ir.Value] = []
    for node in graph:
        made |= set(node.outputs)
        used += [v for v in node.inputs if v is not None]
        for held in node.attributes.values():
            if held.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                continue
            for each in [held.value] if held.type == ir.AttributeType.GRAPH else held.value:
                deeper, read = _values(each)
                made |= deeper
                used += read
    return made, [*used, *graph.outputs]


def capture_names(body: Body) -> dict[str, str]:
    """Name outside → name inside, of the values that the body captures."""
    known = json.loads(body.holder.metadata_props.get(CAPTURES, "{}")).get(body.attribute, {})
    return {v.name or "": known.get(v.name, f"{body.path}/{v.name}") for v in captured(body.graph)}


def _remember(body: Body, names: dict[str, str]) -> None:
    props = body.holder.metadata_props
    props[CAPTURES] = json.dumps(json.loads(props.get(CAPTURES, "{}")) | {body.attribute: names})


def _close(body: Body) -> list[ir.Value]:
    """Captured values become inputs behind the body's own; gives the values outside."""
    outside, names = captured(body.graph), capture_names(body)
    for value in outside:
        inner = ir.Value(name=names[value.name or ""], type=value.type, shape=value.shape)
        replace_inside(body.graph, value, inner)
        body.graph.inputs.append(inner)
    return outside


def replace_inside(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """The graph, and those inside it, read `new` for `old`."""
    for node in graph.all_nodes():
        for i, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(i, new)
        for held in node.attributes.values():
            if held.type == ir.AttributeType.GRAPH:
                _replace_output(held.as_graph(), old, new)
    _replace_output(graph, old, new)


def _replace_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    for i, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[i] = new


@contextmanager
def opened(model: ir.Model) -> Iterator[list[ir.Model]]:
    """The main graph and every body, each a model without captured values, to be changed.

    Meanwhile each holder has what its bodies capture as inputs behind its own.
    """
    found = list(all_bodies(model.graph))
    places: list[tuple[Body, int, int]] = []  # the holder's inputs first … first + count
    for body in reversed(found):
        outside, first = _close(body), len(body.holder.inputs)
        body.holder.resize_inputs(first + len(outside))
        for i, value in enumerate(outside):
            body.holder.replace_input_with(first + i, value)
        places.append((body, first, len(outside)))
    parts = [model]
    for body in found:
        body.graph.opset_imports.update(model.graph.opset_imports)
        parts.append(ir.Model(body.graph, ir_version=model.ir_version))
    try:
        yield parts
    finally:
        for body, first, count in reversed(places):  # the last inputs of a holder were made last
            model.graph.opset_imports.update(body.graph.opset_imports)
            if body.holder.graph is not None:  # else nothing reads its outputs, and it went
                _open(body, first, count)


def _open(body: Body, first: int, count: int) -> None:
    """The body reads the values outside again; their places are emptied, and cut off at the end."""
    inner = list(body.graph.inputs)[len(body.graph.inputs) - count :]
    names: dict[str, str] = {}
    for value, outer in zip(inner, body.holder.inputs[first : first + count], strict=True):
        assert outer is not None
        replace_inside(body.graph, value, outer)
        names[outer.name or ""] = value.name or ""
    del body.graph.inputs[len(body.graph.inputs) - count :]
    _remember(body, names)
    for i in range(first, first + count):
        body.holder.replace_input_with(i, None)
    if first + count == len(body.holder.inputs):
        body.holder.resize_inputs(first)


def closed(model: ir.Model, path: str) -> ir.Model:
    """A copy of the body of that path as a model: what it captures are inputs behind its own."""
    copy = model.clone()
    body = next(b for b in all_bodies(copy.graph) if b.path == path)
    _close(body)
    body.holder.attributes.pop(body.attribute)
    body.graph.opset_imports.update(model.graph.opset_imports)
    return ir.Model(body.graph, ir_version=model.ir_version)


def closed_bodies(model: ir.Model) -> dict[str, ir.Model]:
    """Path → body as a model, outer ones first."""
    return {body.path: closed(model, body.path) for body in all_bodies(model.graph)}
