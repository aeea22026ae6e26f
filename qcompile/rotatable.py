# SPDX-License-Identifier: Apache-2.0
"""Find what may be rotated: values that only products write, and that only products read.

An edge is a set of values whose last axis is turned by one orthogonal matrix, or by blocks of it:
what reaches them by sums, by factors of one number, by ops that keep the last axis, by
attention's P · V, and by norms whose scale and shift the readers take over. Starting from the input
of a product the graph is walked both ways. An edge that something else writes or reads is refused,
with a reason that names it.
"""

import math

import onnx_ir as ir

from qcompile.graph import input_of, is_constant, is_op, rank
from qcompile.norms import Norm, norm_at
from qcompile.rotation_edge import POSITIVE, Constant, Edge, Part, Reader, Writer, shown
from qcompile.rotation_paths import (
    carried,
    is_product,
    is_table,
    kept_parts,
    last_size,
    patches_of,
    picked_part,
)


def edges(graph: ir.Graph) -> list[Edge]:
    """Every edge that a product reads, in the order of the graph; those that are refused too."""
    return found_edges(graph, Walk)


def found_edges(graph: ir.Graph, kind: "type[Walk]") -> list[Edge]:
    """Every edge by one kind of walk."""
    norms: dict[ir.Node, Norm | str] = {}
    for node in graph:
        norm = norm_at(node)
        if isinstance(norm, Norm):
            norms |= dict.fromkeys(norm.inside, norm)
        elif norm is not None:
            norms[node] = norm
    seen: set[ir.Value] = set()
    found = []
    for node in graph:
        value = node.inputs[0] if is_product(node) else None
        if value is None or value in seen or is_constant(value):
            continue
        walk = kind(graph, norms, value)
        found.append(walk.edge)
        seen |= walk.seen.keys()
    return found


class Walk:
    """One edge: values are taken from a list until nothing new is reached."""

    def __init__(self, graph: ir.Graph, norms: dict[ir.Node, Norm | str], start: ir.Value) -> None:
        self.graph, self.norms = graph, norms
        width = self._width(start) or 0
        self.edge = Edge(start, width, width)
        self.seen: dict[ir.Value, Norm | None] = {}
        self.parts: dict[ir.Value, Part | None] = {}
        self._todo: list[ir.Value] = []
        self._reach(start, self._norm_before(start))
        while self._todo:
            value = self._todo.pop()
            norm = self.seen[value]
            self._up(value, norm)
            if self.parts[value] is None:
                self._down(value, norm)
            elif value.is_graph_output() or len({use.node for use in value.uses()}) > 1:
                self._block(f"{value.name} is read besides the part of it that would turn")
        self._settle()

    def _width(self, value: ir.Value | None) -> int | None:
        """The last axis; ONNX infers none for a Slice with computed ends, which keeps it."""
        size = last_size(value)
        node = value.producer() if value is not None and size is None else None
        if node is None or not is_op(node, "Slice") or carried(node) is None:
            return size
        return self._width(node.inputs[0])

    def _norm_before(self, value: ir.Value) -> Norm | None:
        """The norm whose result a reader reads, behind ops that only move it."""
        while (node := value.producer()) is not None:
            norm = self.norms.get(node)
            if isinstance(norm, Norm):
                return norm if norm.output is value else None
            moved = carried(node)
            source = node.inputs[moved[0]] if moved is not None and len(moved) == 1 else None
            if source is None:
                return None
            value = source
        return None

    def _block(self, reason: str) -> None:
        self.edge.reason = self.edge.reason or reason

    def _reach(self, value: ir.Value | None, norm: Norm | None, part: Part | None = None) -> None:
        if value is None:
            return
        if value in self.seen:
            if self.seen[value] is not norm or self.parts[value] != part:
                self._block(f"{value.name} is reached in two ways")
            return
        width = self._width(value)
        if width is None or value.dtype != ir.DataType.FLOAT:
            self._block(f"{value.name} is no float32, or its last axis has no known size")
            return
        self.seen[value], self.parts[value] = norm, part
        size = width if part is None else math.gcd(part.count, part.first or part.count)
        self.edge.block = math.gcd(self.edge.block, size)
        self._todo.append(value)

    def _up(self, value: ir.Value, norm: Norm | None) -> None:
        """What the value comes from."""
        node, part = value.producer(), self.parts[value]
        if node is None:
            if not is_constant(value):
                self._block(f"{value.name} is an input of the model")
            return
        own = self.norms.get(node)
        if isinstance(own, Norm) and own.output is value and norm is own:
            self._take_norm(own)
            return
        picked = picked_part(node) if part is None and norm is None else None
        if picked is not None:
            self._reach(picked[0], None, Part(*picked[1:]))
            return
        moved = carried(node)
        if moved is not None and part is None:
            for index in moved:
                self._feed(node, index, norm, None)
            return
        if norm is not None:
            self._block(f"{shown(node)} lies between {norm.output.name} and its product")
            return
        whole = part or Part(0, self._width(value) or 0)
        cut, patches = kept_parts(node, value), patches_of(node)
        if is_product(node) or is_table(node) or patches is not None:
            writer = patches or node
            self.edge.writers.append(Writer(writer, whole))
            if is_op(writer, "Gemm", "Conv") and input_of(writer, 2) is not None:
                self.edge.constants.append(Constant(writer, 2, whole))
        elif is_op(node, "Add", "Sub"):
            for index in (0, 1):
                self._feed(node, index, None, part)
        elif cut is not None and part is None:
            self._feed(node, 0, None, Part(*cut))
        elif is_op(node, *POSITIVE) and part is None:
            self.edge.bend = self.edge.bend or shown(node)
            self._reach(node.inputs[0], None)
        elif not self._above(node, part):
            self._block(f"{shown(node)} does not commute with a rotation")

    def _above(self, node: ir.Node, part: Part | None) -> bool:
        """Whether what else writes a value passes, for another kind of walk."""
        return False

    def _below(self, node: ir.Node) -> bool:
        """Whether what else reads a value passes."""
        return False

    def _feed(self, node: ir.Node, index: int, norm: Norm | None, part: Part | None) -> None:
        """An input of a node of the edge: a constant, or another value."""
        value = node.inputs[index]
        if value is None or not is_constant(value):
            self._reach(value, norm, part)
            return
        width = self._width(value)
        if norm is not None or value.dtype != ir.DataType.FLOAT or width is None:
            self._block(f"{value.name}, a constant, lies between")
            return
        out = self._width(node.outputs[0]) or 0
        if width != out:
            self._block(f"{value.name}, a constant of {width}, is added to all {out} elements")
            return
        self.edge.block = math.gcd(self.edge.block, width)
        self.edge.constants.append(Constant(node, index, part or Part(0, width)))

    def _down(self, value: ir.Value, norm: Norm | None) -> None:
        """What reads the value."""
        if value.is_graph_output():
            self._block(f"{value.name} is an output of the model")
        for use in value.uses():
            node, index = use.node, use.idx
            own = self.norms.get(node)
            if node.graph is not self.graph:
                self._block(f"a body of {self.graph.name or 'the model'} reads {value.name}")
            elif index == 0 and is_product(node):
                self.edge.readers.append(Reader(node, norm))
            elif isinstance(own, str):
                self._block(own)
            elif own is not None:
                self._enter(own, value, norm)
            elif is_op(node, "Shape", "Size"):
                continue
            elif norm is not None and is_op(node, "Add", "Sub"):
                self._block(
                    f"{shown(node)} adds the result of norm {norm.inside[0].name} (post-norm)"
                )
            elif is_op(node, "Add", "Sub"):
                self._reach(node.outputs[0], None)
            elif is_op(node, *POSITIVE) and norm is None:
                self.edge.bend = self.edge.bend or shown(node)
                self._reach(node.outputs[0], None)
            elif index in (carried(node) or ()):
                self.edge.is_attended |= is_op(node, "MatMul")
                for out in node.outputs:
                    self._reach(out, norm)
            elif not self._below(node):
                self._block(f"{shown(node)} does not commute with a rotation")

    def _enter(self, own: Norm, value: ir.Value, norm: Norm | None) -> None:
        """A norm reads the value."""
        if norm is not None or own.source is not value:
            self._block(f"norm {own.inside[0].name} reads {value.name} behind another norm")
            return
        self._take_norm(own)
        self._reach(own.output, own)

    def _take_norm(self, own: Norm) -> None:
        if any(own is n for n in self.edge.norms):
            return
        self.edge.norms.append(own)
        self._reach(own.source, None)
        inside = set(own.inside)
        for node in own.inside[:-1]:
            (out,) = node.outputs[:1]
            if out.is_graph_output() or not {u.node for u in out.uses()} <= inside:
                self._block(f"{out.name}, inside norm {own.inside[0].name}, is read")
        if own.axis + 1 != rank(own.source):
            self._block(f"norm {own.inside[0].name} is not over the last axis")

    def _settle(self) -> None:
        """What the whole edge has to fulfil."""
        edge = self.edge
        if not edge.writers and not edge.reason:
            edge.reason = "nothing writes it"
        if any(norm.gamma.size != edge.block for norm in edge.norms):
            self._block(f"blocks of {edge.block} are narrower than a norm")
        if edge.bend and edge.norms:
            self._block(f"{edge.bend} does not commute with a rotation")
        if edge.block < 2:
            self._block(f"its blocks have {edge.block} elements")
        parts = {each.part for each in edge.writers} | {each.part for each in edge.constants}
        block = max(edge.block, 1)
        if any(part.first % block or part.count % block for part in parts):
            self._block(f"a part of a product is no multiple of {edge.block}")
