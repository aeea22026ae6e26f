# SPDX-License-Identifier: Apache-2.0
"""What targets with a library refuse by where elements lie: decided on the normalised graph.

Values are followed as maps, as `to_integer_graph` follows their codes later: what cuts, moves or
adds them, what reads them, and floats that stand before the input's quantizer. Where the graph
does not say enough, nothing is refused here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from qcompile import code_places as places
from qcompile.code_moves import Unfit, cut_ranges, moved
from qcompile.code_places import Groups, Shape
from qcompile.graph import attribute, is_constant, is_op
from qcompile.integer_only import Culprit

NCHW: Groups = ((2,), (0,), (1,))
PRODUCTS = ("Conv", "Gemm", "MatMul")
POOLS = ("MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
RESHAPES = ("Reshape", "Flatten", "Squeeze")
MOVES = ("Transpose", *RESHAPES, "Identity")
CUTS = ("Slice", "Pad")
FUNCTIONS = ("Relu", "Clip")
BEFORE_CODES = "it reads the input's floats: do it in the application, or after the first product"


@dataclass(frozen=True)
class Place:
    """Where the elements of a value lie in a map (H, W, C).

    is_input: floats of the user's input, whose axes may still become those of any map.
    """

    groups: Groups
    shape: Shape
    is_input: bool = False

    @property
    def sizes(self) -> list[int]:
        """The dimensions behind the batch."""
        return places.sizes_of(self.groups, self.shape)


def misplaced(graph: ir.Graph, known: Iterable[str]) -> list[Culprit]:
    """The nodes that no kernel can run because of where their elements lie.

    known: the names of nodes that are refused already; nothing is said of what reads them.
    """
    reader, skipped = _Reader(graph), set(known)
    found = []
    for node in graph:
        if (node.name or "") in skipped:
            continue
        try:
            reader.read(node)
        except Unfit as problem:
            found.append(Culprit(node.name or "", node.op_type, str(problem)))
    return reader.culprits + found


class _Reader:
    """Follows the places through the graph; `culprits` are inputs."""

    def __init__(self, graph: ir.Graph) -> None:
        self.seen: dict[ir.Value, Place] = {}
        self.culprits: list[Culprit] = []
        for value in graph.inputs:
            dims = [] if value.shape is None else list(value.shape)[1:]
            if len(dims) not in (1, 3) or not all(isinstance(d, int) and d > 0 for d in dims):
                reason = f"{value.shape}: a map or a row of known size has kernels"
                self.culprits.append(Culprit(value.name or "", "input", reason))
                continue
            self._keep(value, is_input=True)

    def read(self, node: ir.Node) -> None:
        """Unfit where no kernel runs the node; else its output's place, where it is known."""
        data = [v for v in node.inputs if v is not None and not is_constant(v)]
        x = self.seen.get(data[0]) if data else None
        if is_op(node, "Add", "Sub"):
            self._check_sum(node, data)
        if is_op(node, *FUNCTIONS):
            _check_function(node)
        if x is not None and x.is_input and is_op(node, *POOLS, *RESHAPES, *CUTS, *FUNCTIONS):
            raise Unfit(BEFORE_CODES)
        if is_op(node, "MaxPool"):
            _check_maximum(node)
        if x is not None and is_op(node, "Conv"):
            _check_map(x)
        if x is not None and is_op(node, "Gemm", "MatMul") and len(x.groups) != 1:
            rank = len(x.groups) + 1
            raise Unfit(
                f"its input has {rank} dimensions; a product of rows (2) has a kernel there"
            )
        if is_op(node, *MOVES, *CUTS):
            found = None if x is None else _moved(node, x)
            if found is not None:
                self.seen[node.outputs[0]] = found
        elif is_op(node, *PRODUCTS, *POOLS):
            self._keep(node.outputs[0])
        elif is_op(node, "Add", "Sub", *FUNCTIONS) and x is not None and not x.is_input:
            self.seen[node.outputs[0]] = x
        elif is_op(node, "Add", "Sub"):
            self._keep(node.outputs[0])

    def _keep(self, value: ir.Value, *, is_input: bool = False) -> None:
        """A map NCHW, or a row, where the shape behind the batch is known."""
        dims = [] if value.shape is None else list(value.shape)[1:]
        if not all(isinstance(d, int) for d in dims):
            return
        sizes = [int(d) for d in dims if isinstance(d, int)]
        if len(sizes) == 3:
            self.seen[value] = Place(NCHW, (sizes[1], sizes[2], sizes[0]), is_input)
        elif len(sizes) == 1:
            self.seen[value] = Place(((2,),), (1, 1, sizes[0]), is_input)

    def _check_sum(self, node: ir.Node, data: list[ir.Value]) -> None:
        if len(data) == 1:
            if not is_op(data[0].producer(), *PRODUCTS):
                raise Unfit("it adds a constant to what is no product; two maps have a kernel")
            return
        a, b = (self.seen.get(value) for value in data)
        if a is None or b is None:
            return
        is_free = a.is_input or b.is_input
        if a.sizes != b.sizes or not (is_free or a.groups == b.groups):
            raise Unfit(f"it adds {b.sizes} to {a.sizes}; equal maps have a kernel there")


def _check_map(x: Place) -> None:
    """Height, width and channels; what a graph input has become of any order can be one."""
    turned = places.transposed(x.groups, (0, 2, 3, 1)) if len(x.groups) == 3 else None
    if turned is None or not (x.is_input or places.is_map(turned, x.shape)):
        raise Unfit("its input is no map of height, width and channels")


def _check_maximum(node: ir.Node) -> None:
    if any(d != 1 for d in attribute(node, "dilations", ())) or attribute(node, "ceil_mode", 0):
        raise Unfit("a maximum with dilations or ceil_mode has no kernel there")


def _check_function(node: ir.Node) -> None:
    """Relu and Clip are clips of the product or the sum before them."""
    source = node.inputs[0]
    before = None if source is None else source.producer()
    if source is None or before is None:
        return
    if is_op(before, *POOLS, *RESHAPES):
        raise Unfit(f"it stands behind {before.op_type}: put it right behind the product or sum")
    if is_op(before, *PRODUCTS, "Add", "Sub") and len(list(source.uses())) > 1:
        raise Unfit(f"other nodes read {source.name} as well, so that it is no clip of it")


def _moved(node: ir.Node, x: Place) -> Place | None:
    """The place behind a node that moves or cuts; None where a later move may undo it."""
    if is_op(node, *CUTS):
        ranges = cut_ranges(node, x.groups, x.shape, 0)
        height, width, channels = (each[4] for each in ranges)
        return Place(x.groups, (height, width, channels))
    groups = moved(node, x.groups, x.shape)
    if groups is not None:
        return Place(groups, x.shape, x.is_input)
    is_turn = is_op(node, "Transpose")
    undoing = ("Transpose",) if is_turn else RESHAPES
    readers = [use.node for use in node.outputs[0].uses()]
    if readers and all(is_op(reader, *undoing) for reader in readers):
        return None
    what = "moves the batch" if is_turn else "splits a dimension, or changes the batch"
    raise Unfit(f"it {what}; dimensions behind the batch can be swapped and merged")
