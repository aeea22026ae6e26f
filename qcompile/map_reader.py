# SPDX-License-Identifier: Apache-2.0
"""The values of a lowered integer-only graph as maps: its borders, and what moves its data."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from qcompile import code_places as places
from qcompile.code_moves import Unfit, cut_ranges, moved
from qcompile.code_places import Groups
from qcompile.graph import constant, input_of, is_op
from qcompile.integer_facts import clip_behind, first_perm, wide_values
from qcompile.integer_graph import CodeMap, Excerpt, Node
from qcompile.network import Border


@dataclass(frozen=True)
class Seen:
    """A value of the lowered graph: its map, and where its elements lie in it."""

    map: CodeMap
    groups: Groups
    limits: tuple[int, int]
    floats: tuple[float, int] | None = None  # scale and zero point, behind the last codes


class MapReader:
    """Reads the nodes without products; `nodes` are those that need a kernel."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.seen: dict[ir.Value, Seen] = {}
        self.nodes: list[Node] = []
        self.input: tuple[CodeMap, Border] | None = None
        self.wide = wide_values(graph)

    def quantize(self, node: ir.Node) -> None:
        """The user's input becomes codes."""
        x = node.inputs[0]
        scale, point = constant(node.inputs[1]), constant(input_of(node, 2))
        if x is None or not x.is_graph_input() or x.shape is None or self.input is not None:
            raise Unfit("floats become codes inside the network")
        dims = list(x.shape)[1:]
        if len(dims) not in (1, 3) or not all(isinstance(d, int) and d > 0 for d in dims):
            raise Unfit(
                f"the input {x.name} is {x.shape}: a map or a row of known size has kernels"
            )
        if scale is None or scale.size != 1 or point is None:
            raise Unfit("its scale is not one number")
        groups = places.of_perm(first_perm(node.outputs[0], len(dims) + 1), len(dims) + 1)
        shape = [1, 1, 1]
        for size, group in zip(dims, groups, strict=True):
            shape[group[0]] = int(size)  # type: ignore[arg-type]
        limits = clip_behind(node) or (0, 255)
        y = node.outputs[0]
        made = self.new_map(y, (shape[0], shape[1], shape[2]), limits, int(point))
        order = tuple(group[0] for group in groups)
        sizes = tuple(places.sizes_of(groups, made.shape))
        border = Border(x.name or "", sizes, order, float(scale), int(point), limits)
        self.input = made, border
        self.seen[y] = Seen(made, groups, limits)

    def dequantize(self, node: ir.Node) -> None:
        """The last integers become floats."""
        scale, point = constant(node.inputs[1]), constant(input_of(node, 2))
        if scale is None or scale.size != 1:
            raise Unfit("its scale is not one number")
        floats = float(scale), 0 if point is None else int(point)
        self.seen[node.outputs[0]] = replace(self.of(node), floats=floats)

    def clip(self, node: ir.Node) -> None:
        """Codes below 8 bits: the quantizer's limits have it already."""
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if not is_op(before, "QuantizeLinear"):
            raise Unfit("it clips codes inside the network")
        self.seen[node.outputs[0]] = self.of(node)

    def move(self, node: ir.Node) -> None:
        """Transpose, Reshape and their kin: no kernel."""
        seen = self.of(node)
        groups = moved(node, seen.groups, seen.map.shape)
        if groups is None:
            raise Unfit("it moves elements in a way that has no kernel")
        self.seen[node.outputs[0]] = replace(seen, groups=groups)

    def cut(self, node: ir.Node) -> None:
        """Slice and Pad."""
        seen = self.of(node)
        ranges = cut_ranges(node, seen.groups, seen.map.shape, seen.map.zero_point)
        start, step, before, count, dims = zip(*ranges, strict=True)
        y = node.outputs[0]
        made = replace(seen.map, name=y.name or "", shape=(dims[0], dims[1], dims[2]))
        self.nodes.append(Excerpt(seen.map, made, start, step, before, count))
        self.seen[y] = Seen(made, seen.groups, seen.limits)

    def of(self, node: ir.Node, index: int = 0) -> Seen:
        """What an input is."""
        value = node.inputs[index]
        if value is None or value not in self.seen:
            raise Unfit("it reads what no integer node makes")
        return self.seen[value]

    def map_of(self, node: ir.Node) -> CodeMap:
        """The first input, which must be a map with channels last."""
        seen = self.of(node)
        if not places.is_map(seen.groups, seen.map.shape):
            raise Unfit("its input is no map of height, width and channels")
        return seen.map

    def new_map(
        self,
        value: ir.Value,
        shape: tuple[int, int, int],
        limits: tuple[int, int],
        zero_point: int,
        *,
        is_sum: bool = False,
    ) -> CodeMap:
        """The map of a value: codes up to 15 have 4 bits, but where 8-bit weights read them."""
        bits = 4 if limits[1] <= 15 and value not in self.wide else 8
        return CodeMap(value.name or "", shape, 32 if is_sum else bits, False, zero_point)
