# SPDX-License-Identifier: Apache-2.0
"""From the lowered graph of --integer-only to an IntegerGraph, which the TVM targets compile.

The numbers are those of target cpu: codes, biases, dyadic multipliers, clips. Maps become NHWC,
moved data nothing or an Excerpt, and a sum joins the convolution before it. A node without a kernel
is a culprit; all of them are named at once.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qcompile import code_places as places
from qcompile.code_moves import Unfit
from qcompile.code_places import Groups
from qcompile.errors import InputError
from qcompile.graph import DOMAIN, attribute, constant, input_of, is_constant, is_op
from qcompile.integer_facts import (
    weight_values,
    window_of,
)
from qcompile.integer_graph import (
    Add,
    CodeMap,
    Conv,
    GlobalAveragePool,
    IntegerGraph,
    Lookup,
    MaxPool,
)
from qcompile.integer_only import Culprit, message_of
from qcompile.map_reader import MapReader, Seen
from qcompile.network import Border, Network, fused
from qcompile.network_places import BEFORE_CODES
from qcompile.numerics.conv import Window
from qcompile.numerics.dyadic import DyadicPair, as_operand
from qcompile.numerics.requantize import Dyadic
from qcompile.passes.lower.lowered import BIAS, MULTIPLIER, output_zero_point

NO_RESULT = "it is not what the last integer product makes"
# What normalised graphs have in place of the lowered ops; Relu and Clip are parts of products.
FLOAT_OPS = (
    *("Conv", "Gemm", "MatMul", "Add", "Sub", "Relu", "MaxPool", "GlobalMaxPool", "AveragePool"),
    *("GlobalAveragePool", "ReduceMean", "Constant"),
)
CURE = (
    "end the model before those that come last, replace the others, or compile for --target cpu "
    "(--integer-only there has kernels for more operators)"
)


def to_integer_graph(lowered: ir.Model, target: str, batch: int) -> Network:
    """The network of a lowered integer-only model; InputError with every node that has no kernel.

    batch: samples a call.
    """
    reader = _Reader(lowered.graph)
    reader.read()
    made = None if reader.culprits else reader.output(batch)
    if made is None:
        last = Culprit(lowered.graph.outputs[0].name or "", "output", NO_RESULT)
        what = f"target {target}: {{}} without a kernel"
        raise InputError(message_of(reader.culprits or [last], what, CURE))
    return made


def why_no_kernel(node: ir.Node) -> str | None:
    """What the node alone says, in a normalised or a lowered graph; None where nothing does."""
    if is_op(node, "Conv") or is_op(node, "QConv", domain=DOMAIN):
        group = int(attribute(node, "group", 1))
        if group != 1:
            return f"a convolution of {group} groups has no kernel there"
        if any(d != 1 for d in attribute(node, "dilations", ())):
            return f"a convolution with dilations {tuple(attribute(node, 'dilations'))} has none"
    known = _OPS if node.domain == DOMAIN or node.op_type in _OPS else FLOAT_OPS
    if node.domain not in ("", "ai.onnx", DOMAIN) or node.op_type not in known:
        return "it has no kernel there"
    return None


class _Reader(MapReader):
    """Walks the graph once; `culprits` are the nodes that do not fit."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self.culprits: list[Culprit] = []
        self.sources: dict[str, tuple[str, ...]] = {}

    def read(self) -> None:
        """All nodes, in order."""
        for what, values in (("input", self.graph.inputs), ("output", self.graph.outputs)):
            if len(values) != 1:
                names = ", ".join(v.name or "" for v in values)
                self._refuse("", f"{len(values)} {what}s", f"one {what} has kernels: {names}")
        failed: set[ir.Value] = set()
        for node in self.graph:
            if is_op(node, "Constant"):
                continue
            data = [v for v in node.inputs if v is not None and not is_constant(v)]
            reason = why_no_kernel(node)
            if reason is None and node.op_type not in _OPS:
                reason = BEFORE_CODES
            if reason is None and not any(v in failed for v in data):
                count = len(self.nodes)
                try:
                    _OPS[node.op_type](self, node)
                    for made in self.nodes[count:]:
                        self.sources[made.y.name] = (node.name or "",)
                except (Unfit, InputError) as problem:
                    reason = str(problem)
            if reason is not None:
                self._refuse(node.name or "", node.op_type, reason)
            if reason is not None or any(v in failed for v in data):
                failed.update(node.outputs)

    def _refuse(self, name: str, op_type: str, reason: str) -> None:
        self.culprits.append(Culprit(name, op_type, reason))

    def output(self, batch: int) -> Network | None:
        """The network, where the only output is what the last node makes."""
        (value,) = self.graph.outputs
        seen = self.seen.get(value)
        if seen is None or seen.floats is None or not self.nodes or self.input is None:
            return None
        nodes, sources = fused(self.nodes, self.sources)
        if nodes[-1].y != seen.map:
            return None
        order = tuple(axis for group in seen.groups for axis in group)
        sizes = tuple(places.sizes_of(seen.groups, seen.map.shape))
        border = Border(value.name or "", sizes, order, *seen.floats, seen.limits)
        graph = IntegerGraph(self.input[0], tuple(nodes), batch)
        return Network(graph, self.input[1], border, sources)

    def conv(self, node: ir.Node) -> None:
        """QConv."""
        x = self.map_of(node)
        window = window_of(node)
        weight = weight_values(node).reshape(-1, *window.kernel, x.shape[2])
        shape = (*window.output_size(*x.shape[:2]), len(weight))
        self._product(node, x, weight, window, shape, places.NHWC)

    def matmul(self, node: ir.Node) -> None:
        """QMatMul: a window over the whole map."""
        seen = self.of(node)
        order = places.order_of(seen.groups)
        if order is None:
            rank = len(seen.groups) + 1
            raise Unfit(
                f"its input has {rank} dimensions; a product of rows (2) has a kernel there"
            )
        full = [*order, *(axis for axis in range(3) if axis not in order)]
        flat = weight_values(node)
        weight = flat.reshape(-1, *(seen.map.shape[axis] for axis in full))
        weight = weight.transpose(0, *(full.index(axis) + 1 for axis in range(3)))
        height, width, _ = seen.map.shape
        shape = (1, 1, len(flat))
        self._product(node, seen.map, weight, Window((height, width)), shape, ((2,),))

    def _product(
        self,
        node: ir.Node,
        x: CodeMap,
        weight: np.ndarray,
        window: Window,
        shape: tuple[int, int, int],
        groups: Groups,
    ) -> None:
        if attribute(node, "activation") != "static" or attribute(node, "block_size", 0):
            raise Unfit("it has no static codes with one scale an output")
        if int(attribute(node, "has_zero_point", 0)):
            raise Unfit("its weights have zero points")
        multiplier, bias = constant(input_of(node, MULTIPLIER)), constant(input_of(node, BIAS))
        assert multiplier is not None and multiplier.dtype == np.int32
        if bias is None or not bias.size:
            bias = np.zeros(len(weight), np.int32)
        limits = int(attribute(node, "y_min")), int(attribute(node, "y_max"))
        is_sum = attribute(node, "output") == "i32"
        point = 0 if is_sum else int(attribute(node, "y_zero_point"))
        y = self.new_map(node.outputs[0], shape, limits, point, is_sum=is_sum)
        bits = int(attribute(node, "bits"))
        self.nodes.append(
            Conv(
                x,
                y,
                np.ascontiguousarray(weight).astype(np.int8),
                bias,
                Dyadic(*multiplier),
                window,
                4 if bits <= 4 else 8,
                clip=limits,
            )
        )
        self.seen[node.outputs[0]] = Seen(y, groups, limits)

    def add(self, node: ir.Node) -> None:
        """QAdd of two maps."""
        a, b = (self.of(node, i) for i in range(2))
        if a.groups != b.groups or a.map.shape != b.map.shape:
            raise Unfit(f"it adds {b.map.shape} to {a.map.shape}; equal maps have a kernel there")
        limits = int(attribute(node, "y_min")), int(attribute(node, "y_max"))
        point = int(attribute(node, "y_zero_point"))
        y = self.new_map(node.outputs[0], a.map.shape, limits, point)
        ratios = [float(np.float32(attribute(node, f"{n}_multiplier"))) for n in "ab"]
        self.nodes.append(Add(a.map, b.map, y, DyadicPair.of(*ratios), limits))
        self.seen[node.outputs[0]] = Seen(y, a.groups, limits)

    def lookup(self, node: ir.Node) -> None:
        """QLut."""
        seen, table = self.of(node), constant(node.inputs[1])
        assert table is not None
        low, high = seen.limits
        used = table[low : high + 1]
        limits, point = (int(used.min()), int(used.max())), output_zero_point(node)
        y = self.new_map(node.outputs[0], seen.map.shape, limits, point)
        self.nodes.append(Lookup(seen.map, y, np.minimum(table, limits[1]).astype(np.uint8)))
        self.seen[node.outputs[0]] = Seen(y, seen.groups, limits)

    def pool(self, node: ir.Node) -> None:
        """QPool: maxima, and the average of a whole map."""
        x, seen, window = self.map_of(node), self.of(node), window_of(node)
        if attribute(node, "mode") == "max":
            if window.kernel == (0, 0):  # GlobalMaxPool
                window = Window((x.shape[0], x.shape[1]))
            shape = (*window.output_size(*x.shape[:2]), x.shape[2])
            made: CodeMap = replace(x, name=node.outputs[0].name or "", shape=shape)
            self.nodes.append(MaxPool(x, made, window))
            self.seen[node.outputs[0]] = Seen(made, places.NHWC, seen.limits)
            return
        if window.kernel not in ((0, 0), x.shape[:2]) or any(window.pads):
            raise Unfit(
                f"the average of {window.kernel} in {x.shape[:2]}: whole maps have a kernel"
            )
        limits = int(attribute(node, "y_min")), int(attribute(node, "y_max"))
        point = int(attribute(node, "y_zero_point"))
        y = self.new_map(node.outputs[0], (1, 1, x.shape[2]), limits, point)
        ratio = float(np.float32(attribute(node, "multiplier"))) / (x.shape[0] * x.shape[1])
        scale = Dyadic(*as_operand([ratio]))
        self.nodes.append(GlobalAveragePool(x, y, scale, limits))
        self.seen[node.outputs[0]] = Seen(y, places.NHWC, limits)


_OPS = {
    "QuantizeLinear": MapReader.quantize,
    "DequantizeLinear": MapReader.dequantize,
    "Clip": MapReader.clip,
    "Transpose": MapReader.move,
    "Reshape": MapReader.move,
    "Flatten": MapReader.move,
    "Squeeze": MapReader.move,
    "Identity": MapReader.move,
    "Slice": MapReader.cut,
    "Pad": MapReader.cut,
    "QConv": _Reader.conv,
    "QMatMul": _Reader.matmul,
    "QAdd": _Reader.add,
    "QLut": _Reader.lookup,
    "QPool": _Reader.pool,
}
