# SPDX-License-Identifier: Apache-2.0
"""What the rewrites of normalise share: nodes put before or after another, and derived weights.

Names stay: what is put after a node takes over the name of the node's output.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    add_initializer,
    attribute,
    constant,
    derived_initializer,
    is_op,
    new_node,
    only_consumer,
    unique_name,
)
from qcompile.passes.normalise.channel_statistics import move

# Below this a derived weight is computed at once; above it whenever it is read, so that the
# source's mapped file stays the only copy.
EAGER_BYTES = 1 << 20


def by_output(
    value: ir.Value | None, num_outputs: int, channel: int, result_rank: int | None
) -> NDArray[np.float64] | None:
    """The float constant as [N], where it varies at most over the outputs of a product.

    channel: the axis of the outputs in the product's result, from the end: -1, or 1 - rank of maps.
    None, too, where it would give the result more axes.
    """
    array = constant(value)
    if array is None or array.dtype.kind != "f" or result_rank is None or array.ndim > result_rank:
        return None
    at = array.ndim + channel
    if any(size != 1 for i, size in enumerate(array.shape) if i != at):
        return None
    if array.size not in (1, num_outputs):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (num_outputs,))


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that holds the node."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def prepend(
    node: ir.Node,
    index: int,
    op_type: str,
    *more: ir.Value | None,
    suffix: str,
    shape: ir.Shape | None = None,
    **attributes: Any,
) -> ir.Node:
    """A new node between the node and its input `index`."""
    graph, source = graph_of(node), node.inputs[index]
    assert source is not None
    name = unique_name(graph, f"{node.outputs[0].name}_{suffix}")
    dtype = source.dtype or ir.DataType.FLOAT
    made = new_node(
        op_type, [source, *more], f"{name}/{op_type}", name, dtype=dtype, shape=shape, **attributes
    )
    graph.insert_before(node, made)
    node.replace_input_with(index, made.outputs[0])
    return made


def append(
    node: ir.Node,
    op_type: str,
    *more: ir.Value | None,
    suffix: str,
    shape: ir.Shape | None = None,
    domain: str = "",
    **attributes: Any,
) -> ir.Node:
    """A new node after the node, which gives what the node gave: name, readers and shape.

    shape: that of the node's own output from now on, which is named with the suffix.
    """
    graph, inner = graph_of(node), node.outputs[0]
    name, readers = inner.name or "", list(inner.uses())
    inner.name = unique_name(graph, f"{name}_{suffix}")
    made = new_node(
        op_type,
        [inner, *more],
        f"{inner.name}/{op_type}",
        name,
        domain=domain,
        dtype=inner.dtype or ir.DataType.FLOAT,
        shape=inner.shape,
        **attributes,
    )
    for use in readers:
        use.node.replace_input_with(use.idx, made.outputs[0])
    for i, output in enumerate(graph.outputs):
        if output is inner:
            graph.outputs[i] = made.outputs[0]
    inner.shape = shape
    move(inner, made.outputs[0])
    graph.insert_after(node, made)
    return made


def give(old: ir.Value, new: ir.Value) -> None:
    """`new` takes the name, readers, shape and role of `old`, whose node can go then."""
    producer = new.producer()
    assert producer is not None
    graph, name = graph_of(producer), old.name or ""
    for i, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[i] = new
    old.replace_all_uses_with(new)
    old.name = unique_name(graph, f"{name}_before")
    move(old, new)
    new.name, new.type = name, old.type
    new.shape = old.shape if old.shape is not None else new.shape


def integers(node: ir.Node, name: str, numbers: Sequence[int]) -> ir.Value:
    """An int64 vector, named after the node's output."""
    array = np.array(numbers, np.int64)
    return add_initializer(graph_of(node), f"{node.outputs[0].name}_{name}", array)


def changed(
    source: ir.Value, shape: Sequence[int], change: Callable[[NDArray], NDArray]
) -> ir.TensorProtocol:
    """What `change` makes of the constant; of a large one whenever it is read."""
    held = source.const_value
    assert held is not None

    def compute() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(change(held.numpy())), dtype=held.dtype)

    is_small = held.nbytes <= EAGER_BYTES
    return compute() if is_small else ir.LazyTensor(compute, held.dtype, ir.Shape(shape))


def derived(
    node: ir.Node,
    source: ir.Value,
    suffix: str,
    shape: Sequence[int],
    change: Callable[[NDArray], NDArray],
) -> ir.Value:
    """The initializer that `change` makes of the one of `source`, shared by all who ask.

    The suffix says all that `change` depends on.
    """
    return derived_initializer(
        graph_of(node), source, suffix, lambda: changed(source, shape, change)
    )


def dims(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a constant."""
    assert value is not None and value.const_value is not None
    return tuple(int(d) for d in value.const_value.shape.numpy())


def swapped(shape: ir.Shape | None) -> ir.Shape | None:
    """The shape with its last two dimensions exchanged."""
    if shape is None:
        return None
    sizes = list(shape)
    return ir.Shape([*sizes[:-2], sizes[-1], sizes[-2]])


def swap(rank: int) -> list[int]:
    """The permutation that exchanges the last two of so many dimensions.

    >>> swap(4)
    [0, 1, 3, 2]
    """
    return [*range(rank - 2), rank - 1, rank - 2]


def sole_source(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of these ops that gives the value to one reader only."""
    before = value.producer() if value is not None else None
    if value is None or before is None or not is_op(before, *op_types):
        return None
    return before if only_consumer(value) is not None else None


def spatial(node: ir.Node, name: str, rank: int, default: int) -> list[int]:
    """A list attribute of a convolution, with its default for every spatial axis."""
    length = 2 * rank if name == "pads" else rank
    return list(attribute(node, name, None) or [default] * length)
