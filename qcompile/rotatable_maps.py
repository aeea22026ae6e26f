# SPDX-License-Identifier: Apache-2.0
"""Find what may be rotated in maps [B, C, H, W]: channels between convolutions, nothing nonlinear.

One matrix [C, C] turns the channels of every pixel, which is a 1 x 1 convolution: it goes into the
outputs of the dense convolutions that write the maps, and into the inputs of those of 1 x 1 that
read them. Linear bottlenecks (MobileNetV2, Sandler et al. 2018, section 3.2) with their residual
sums are such maps. Activations and depthwise convolutions see each channel by itself: refused, but
for scales of channels behind Relu and MaxPool, which f(s x) = s f(x) lets pass (Nagel et al. 2019).
"""

import onnx_ir as ir

from qcompile.graph import attribute, constant, input_of, is_constant, is_op, rank
from qcompile.products import weight_of
from qcompile.rotation_edge import POSITIVE, Constant, Edge, Part, Reader, Writer, shown

_SCALED = (*POSITIVE, "MaxPool")
_PIXELS = ("AveragePool", "GlobalAveragePool", "Identity", "Neg")  # of each channel alike, in sums


def map_edges(graph: ir.Graph) -> list[Edge]:
    """Every edge that a 1 x 1 Conv reads, in the order of the graph; those that are refused too.

    What an activation has just made is none, but for one that keeps positive factors.
    """
    seen: set[ir.Value] = set()
    found = []
    for node in graph:
        value = node.inputs[0] if is_dense(node) and is_narrow(node) else None
        maker = None if value is None else value.producer()
        is_linear = maker is not None and (
            is_dense(maker) or is_op(maker, "Add", "Sub", *_PIXELS, *_SCALED)
        )
        if value is None or value in seen or not is_linear:
            continue
        walk = MapWalk(graph, value)
        found.append(walk.edge)
        seen |= walk.seen
    return found


class MapWalk:
    """One edge: values are taken from a list until nothing new is reached."""

    def __init__(self, graph: ir.Graph, start: ir.Value) -> None:
        width = _channels(start) or 0
        self.graph, self.edge = graph, Edge(start, width, width, is_map=True)
        self.seen: set[ir.Value] = set()
        self._todo: list[ir.Value] = []
        self._reach(start)
        while self._todo and not self.edge.reason:
            value = self._todo.pop()
            self._up(value)
            self._down(value)
        if self.edge.block < 2 and not self.edge.reason:
            self.edge.reason = f"its maps have {self.edge.block} channels"

    def _block(self, reason: str) -> None:
        self.edge.reason = self.edge.reason or reason

    def _bend(self, node: ir.Node) -> None:
        if is_op(node, *_SCALED):
            self.edge.bend = self.edge.bend or shown(node)

    def _reach(self, value: ir.Value | None) -> None:
        if value is None or value in self.seen:
            return
        if is_constant(value) or value.dtype != ir.DataType.FLOAT:
            self._block(f"{value.name}, a constant or no float32, lies between")
        elif rank(value) != 4 or _channels(value) != self.edge.width:
            self._block(f"{value.name} is no map of {self.edge.width} channels")
        else:
            self.seen.add(value)
            self._todo.append(value)

    def _up(self, value: ir.Value) -> None:
        node = value.producer()
        if node is None:
            self._block(f"{value.name} is an input of the model")
        elif is_dense(node):
            whole = Part(0, self.edge.width)
            self.edge.writers.append(Writer(node, whole))
            if input_of(node, 2) is not None:
                self.edge.constants.append(Constant(node, 2, whole))
        elif is_op(node, "Add", "Sub"):
            for source in node.inputs:
                self._reach(source)
        elif is_op(node, *_PIXELS, *_SCALED):
            self._bend(node)
            self._reach(node.inputs[0])
        elif not self._writes(node):
            self._block(_apart(node))

    def _reads(self, node: ir.Node) -> bool:
        """Whether another kind of walk takes what reads a value."""
        return False

    def _writes(self, node: ir.Node) -> bool:
        """Whether it takes what else writes one."""
        return False

    def _down(self, value: ir.Value) -> None:
        if value.is_graph_output():
            self._block(f"{value.name} is an output of the model")
        for use in value.uses():
            node = use.node
            if node.graph is not self.graph:
                self._block(f"a body of {self.graph.name or 'the model'} reads {value.name}")
            elif use.idx == 0 and self._reads(node):
                continue
            elif use.idx == 0 and is_dense(node):
                self.edge.readers.append(Reader(node, None))
                if not is_narrow(node):
                    self._block(f"Conv {node.name} reads windows, not pixels")
            elif is_op(node, "Add", "Sub", *_PIXELS, *_SCALED):
                self._bend(node)
                self._reach(node.outputs[0])
            elif not is_op(node, "Shape", "Size"):
                self._block(_apart(node))


def is_dense(node: ir.Node) -> bool:
    """A Conv of maps with one group, and constants."""
    if not is_op(node, "Conv") or attribute(node, "group", 1) != 1:
        return False
    weight, bias = weight_of(node), input_of(node, 2)
    is_float = weight is not None and weight.dtype == ir.DataType.FLOAT and rank(weight) == 4
    return is_float and (bias is None or constant(bias) is not None)


def is_narrow(node: ir.Node) -> bool:
    """Of 1 x 1, without padding, whose border would have no rows of its own."""
    weight = weight_of(node)
    assert weight is not None and weight.shape is not None
    return tuple(weight.shape)[2:] == (1, 1) and not any(attribute(node, "pads", ()))


def _channels(value: ir.Value) -> int | None:
    size = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    return size if isinstance(size, int) else None


def _apart(node: ir.Node) -> str:
    if is_op(node, "Conv"):
        return f"Conv {node.name} sees groups of channels by themselves"
    return f"{shown(node)} does not commute with a rotation"
