# SPDX-License-Identifier: Apache-2.0
"""Reading and editing onnx_ir graphs: constants, neighbours, attributes, new nodes."""

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

DOMAIN = "com.qcompile"
DOMAIN_VERSION = 1
# Metadata keys. FLOAT: the value of the float model that a value, or a compiled node's output,
# stands for. LAYOUT: "NHWC" where an activation's channels are last.
FLOAT, LAYOUT, NHWC = "qcompile.float", "qcompile.layout", "NHWC"
ROTATION = "qcompile.rotation"  # on nodes that compute one: their matrices are no weights
ROOTS = "qcompile.roots"  # on products of complex weights that are turned by 45 degrees
TOKEN = "qcompile.token"  # on nodes that split off token 0, or compute it: which part
_DERIVED = "derived from"  # meta of a derived initializer: the one that it comes from, the suffix
_MAPPING = Lock()  # two workers that map one tensor at once make onnx_ir assert


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or Constant, or None; mapped, not copied, where possible."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    if isinstance(value.const_value, ir.ExternalTensor):
        with _MAPPING:
            return value.const_value.numpy()
    return value.const_value.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer that no caller can replace."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value, if there is just one and the value is no graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The attribute's Python value, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def table_attributes(table: tuple[int, ...]) -> dict[str, Any]:
    """A table's entries, less the least where it is below 0: ONNX has ten bytes for -1, one for 1.

    >>> table_attributes((0, 1, -2, -1))
    {'table': [2, 3, 0, 1], 'table_low': -2}
    """
    low = min(0, *table)
    stored = {"table": [value - low for value in table]}
    return stored | {"table_low": low} if low else stored


def table_of(node: ir.Node) -> tuple[int, ...] | None:
    """The entries of a node's weight format; None where it is no table."""
    table, low = attribute(node, "table"), attribute(node, "table_low", 0)
    return None if table is None else tuple(value + low for value in table)


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> bool:
    """Whether the node is one of these ops of the domain."""
    return (
        node is not None
        and node.domain in (domain, domain or "ai.onnx")
        and (node.op_type in op_types)
    )


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index`, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def rank(value: ir.Value | None) -> int | None:
    """The value's number of dimensions, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape where all of it is known."""
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return tuple(int(d) for d in value.shape if isinstance(d, int))


def add_initializer(graph: ir.Graph, name: str, tensor: NDArray | ir.TensorProtocol) -> ir.Value:
    """A new initializer under a name not yet taken in the graph."""
    if isinstance(tensor, np.ndarray):
        tensor = ir.tensor(tensor, name=name)
    unique = unique_name(graph, name)
    value = ir.Value(
        name=unique,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    tensor.name = unique
    graph.register_initializer(value)
    return value


def unique_name(graph: ir.Graph, name: str) -> str:
    """The name, numbered where a value of the graph has it already."""
    unique, number = name, 1
    while _is_taken(graph, unique):
        unique, number = f"{name}_{number}", number + 1
    return unique


def _is_taken(graph: ir.Graph, name: str) -> bool:
    """Whether a value of the graph has the name; asked for every weight, so without a copy."""
    if name in graph.initializers or any(v.name == name for v in graph.inputs):
        return True
    return any(v.name == name for node in graph for v in node.outputs)


def derived_initializer(
    graph: ir.Graph, source: ir.Value, suffix: str, make: Callable[[], ir.TensorProtocol]
) -> ir.Value:
    """The initializer `make` computes from the one of `source`, made once for all who ask."""
    known = graph.initializers.get(source.meta.get(suffix, ""))
    if known is None:
        known = add_initializer(graph, f"{source.name}{suffix}", make())
        source.meta[suffix] = known.name
        known.meta[_DERIVED] = source, suffix
    return known


def derivation(value: ir.Value) -> tuple[ir.Value, tuple[str, ...]]:
    """The initializer that a value was derived from in the end, and the suffixes of the steps."""
    suffixes: tuple[str, ...] = ()
    while _DERIVED in value.meta:
        value, suffix = value.meta[_DERIVED]
        suffixes = (suffix, *suffixes)
    return value, suffixes


def values(graph: ir.Graph) -> Iterable[ir.Value]:
    """Every value of the graph: inputs, initializers, node outputs."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    output: str,
    /,
    *,
    domain: str = "",
    dtype: ir.DataType = ir.DataType.FLOAT,
    shape: ir.Shape | None = None,
    **attributes: Any,
) -> ir.Node:
    """A node with one named output, typed here because ONNX inference stops at custom ops."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    node.outputs[0].name = output
    node.outputs[0].type = ir.TensorType(dtype)
    node.outputs[0].shape = shape
    return node


def replace(old: ir.Value, new: ir.Value) -> None:
    """All readers of `old` read `new`; so does a graph output, whose name `new` takes.

    A graph input that is also an output keeps both roles and its name.
    """
    if old.is_graph_input():
        for use in list(old.uses()):
            use.node.replace_input_with(use.idx, new)
        return
    if old.is_graph_output():
        graph = old.graph
        assert graph is not None
        name = old.name
        old.name = unique_name(graph, f"{name}_float")
        new.name = name
        for i, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[i] = new
        new.shape = old.shape if new.shape is None else new.shape
        new.type = old.type if new.type is None else new.type
    old.replace_all_uses_with(new)


def remove_dead(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Remove those of the nodes that nothing reads, last first."""
    for node in reversed(list(nodes)):
        if node.graph is graph and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
