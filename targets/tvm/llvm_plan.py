# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels of a graph: maps are bytes, one code each."""

from numpy.typing import NDArray

from qcompile.integer_graph import Add, Conv, Excerpt, IntegerGraph, Lookup, MaxPool, Node
from qcompile.targets.tvm import llvm_conv, llvm_maps
from qcompile.targets.tvm.channels import channel_table
from qcompile.targets.tvm.llvm_dot import Dot, dot_of
from qcompile.targets.tvm.plan import Plan, Step, code_kind

Arguments = tuple[tuple[str, str | NDArray], ...]


def plan(graph: IntegerGraph, dot: Dot) -> Plan:
    """The kernels of a graph with one kind of dot product."""
    x, batch = graph.input, graph.batch
    steps = tuple(_step(node, batch, i, dot) for i, node in enumerate(graph.nodes))
    return Plan(graph, x.name, (batch, *x.shape), code_kind(x), steps)


def _step(node: Node, batch: int, index: int, dot: Dot) -> Step:
    name = f"{type(node).__name__.lower()}_{index}"
    channels = node.y.shape[2]
    arguments: Arguments
    if isinstance(node, Conv):
        dot = dot_of(node, dot)
        function = llvm_conv.conv_function(node, batch, dot, name)
        arguments = _conv_arguments(node, dot)
    elif isinstance(node, Add):
        function = llvm_maps.add_function(node, batch, name)
        arguments = (("a", node.a.name), ("b", node.b.name))
    elif isinstance(node, MaxPool):
        function = llvm_maps.max_pool_function(node, batch, name)
        arguments = (("x", node.x.name),)
    elif isinstance(node, Lookup):
        function = llvm_maps.lookup_function(node, batch, name)
        arguments = (("x", node.x.name), ("table", node.table))
    elif isinstance(node, Excerpt):
        function = llvm_maps.excerpt_function(node, batch, name)
        arguments = (("x", node.x.name),)
    else:
        function = llvm_maps.global_average_function(node, batch, name)
        table = channel_table(node.scale, None, channels, channels)
        arguments = (("x", node.x.name), ("channels", table))
    view = (batch, *node.y.shape)
    shape: tuple[int, ...] = view
    if isinstance(node, Conv):
        shape = (llvm_conv.num_rows(node, batch), channels)
    return Step(name, function, arguments, node.y.name, shape, code_kind(node.y), node, view)


def _conv_arguments(conv: Conv, dot: Dot) -> Arguments:
    arguments: Arguments = (
        ("x", conv.x.name),
        ("weight", llvm_conv.pack_weight(conv, dot)),
        ("channels", llvm_conv.epilogue(conv).table),
    )
    if conv.residual is None:
        return arguments
    return (*arguments, ("residual", conv.residual.other.name))
