# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of a graph: maps are words on the device, codes at its border."""

from collections.abc import Callable

from numpy.typing import NDArray

from qcompile.integer_graph import (
    Add,
    Conv,
    Excerpt,
    GlobalAveragePool,
    IntegerGraph,
    Lookup,
    MaxPool,
    Node,
)
from qcompile.targets.tvm import cuda_conv, cuda_maps, cuda_thin
from qcompile.targets.tvm.channels import channel_table
from qcompile.targets.tvm.cuda_conv import ConvKernel, Shapes
from qcompile.targets.tvm.cuda_thin import ThinKernel, ThinShapes
from qcompile.targets.tvm.plan import Plan, Step, code_kind
from qcompile.targets.tvm.roofline import choose_tile
from qcompile.targets.tvm.tile import Tile

Chooser = Callable[[Conv, int], Tile]
Arguments = tuple[tuple[str, str | NDArray], ...]


def plan(graph: IntegerGraph, tile_of: Chooser = choose_tile) -> Plan:
    """The kernels of a graph; tile_of(convolution, batch) chooses the knobs of each."""
    x, y, batch = graph.input, graph.output, graph.batch
    codes, packed = f"{x.name}_codes", x.name
    steps = [
        Step(
            "pack_input",
            cuda_maps.pack_kernel(x, batch, "pack_input"),
            (("x", codes),),
            packed,
            cuda_maps.word_shape(x, batch),
            "int32",
        )
    ]
    steps += [_step(node, batch, i, tile_of) for i, node in enumerate(graph.nodes)]
    if y.bits != 32:
        function = cuda_maps.unpack_kernel(y, batch, "unpack_output")
        shape, kind = (batch, *y.shape), code_kind(y)
        steps.append(
            Step("unpack_output", function, (("x", y.name),), f"{y.name}_codes", shape, kind)
        )
    return Plan(graph, codes, (batch, *x.shape), code_kind(x), tuple(steps))


def _step(node: Node, batch: int, index: int, tile_of: Chooser) -> Step:
    name = f"{type(node).__name__.lower()}_{index}"
    if isinstance(node, Conv):
        function, arguments = _conv(node, batch, name, tile_of)
    elif isinstance(node, Add):
        function = cuda_maps.add_kernel(node, batch, name)
        arguments = (("a", node.a.name), ("b", node.b.name))
    elif isinstance(node, MaxPool):
        function = cuda_maps.max_pool_kernel(node, batch, name)
        arguments = (("x", node.x.name),)
    elif isinstance(node, Lookup):
        function = cuda_maps.lookup_kernel(node, batch, name)
        arguments = (("x", node.x.name), ("table", node.table))
    elif isinstance(node, Excerpt):
        function = cuda_maps.excerpt_kernel(node, batch, name)
        arguments = (("x", node.x.name),)
    else:
        assert isinstance(node, GlobalAveragePool)
        function = cuda_maps.global_average_kernel(node, batch, name)
        padded = cuda_maps.padded_channels(node.y)
        table = channel_table(node.scale, None, node.y.shape[2], padded)
        arguments = (("x", node.x.name), ("channels", table))
    shape = cuda_maps.word_shape(node.y, batch)
    return Step(name, function, arguments, node.y.name, shape, "int32", node)


def _conv(conv: Conv, batch: int, name: str, tile_of: Chooser) -> tuple[object, Arguments]:
    thin = ThinShapes(conv, batch)
    shapes = thin if thin.fits() else Shapes(conv, batch, tile_of(conv, batch))
    if isinstance(shapes, ThinShapes):
        function, weight = ThinKernel(shapes, name).build(), cuda_thin.pack_weight(shapes)
    else:
        function, weight = ConvKernel(shapes, name).build(), cuda_conv.pack_weight(shapes)
    N, padded = conv.y.shape[2], shapes.padded_outputs
    table = channel_table(conv.scale, conv.folded_bias, N, padded)
    arguments: Arguments = (("x", conv.x.name), ("weight", weight), ("channels", table))
    if conv.residual is not None:
        arguments = (*arguments, ("residual", conv.residual.other.name))
    return function, arguments
