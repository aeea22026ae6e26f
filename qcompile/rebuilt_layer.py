# SPDX-License-Identifier: Apache-2.0
"""RebuiltLayer: a product of the QDQ graph whose codes are found again, read and written there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qcompile.compensate import source_of
from qcompile.graph import constant, input_of, is_op
from qcompile.moments import Source
from qcompile.numerics.weight import CodedWeight
from qcompile.passes.transform.code_store import as_matrix
from qcompile.passes.transform.correct_bias import bias_place
from qcompile.passes.transform.layer_rows import InputGrid, Real32, Rebuilt
from qcompile.plan import Plan
from qcompile.products import code_bounds, end_of_bias, fused_end, weight_of
from qcompile.reverse import spec_of
from qcompile.spec import QuantSpec
from qcompile.tunable import bias_of, put, write_bias
from qcompile.verify_compensated import written_weight


@dataclass(frozen=True)
class RebuiltLayer:
    """A product in the float model and in the QDQ graph.

    dequantizer: of its weight. holder: of its bias in the QDQ graph, with the input's index; None
    where it has none. has_own_scale: whether nothing else depends on the scale of its input.
    """

    float_node: ir.Node
    node: ir.Node
    dequantizer: ir.Node
    source: Source
    holder: tuple[ir.Node, int] | None
    has_own_scale: bool

    @property
    def weight(self) -> Real32:
        """The float weight [N, K]."""
        value = weight_of(self.float_node)
        assert value is not None and value.const_value is not None
        return as_matrix(value.const_value)

    @property
    def spec(self) -> QuantSpec:
        """Of the weight."""
        return spec_of(self.dequantizer)

    def coded(self) -> CodedWeight:
        """The weight as the QDQ graph has it."""
        codes = constant(self.dequantizer.inputs[0])
        assert codes is not None
        return written_weight(self.dequantizer, codes, self.spec)

    def bias(self) -> Real32 | None:
        """As the QDQ graph has it."""
        value = None if self.holder is None else input_of(*self.holder)
        return None if value is None else bias_of(value)

    def float_bias(self) -> Real32 | None:
        """As the float model has it."""
        place = bias_place(self.float_node)
        found = None if place is None else constant(input_of(*place))
        return None if found is None else np.asarray(found, np.float32)

    @property
    def sums(self) -> str:
        """The float model's value with the bias in it."""
        own = self.float_node.outputs[0]
        end = end_of_bias(own) if is_op(self.float_node, "MatMul") else None
        return (end or own).name or ""

    @property
    def sums_here(self) -> str:
        """The QDQ graph's value with the bias in it."""
        is_added = self.holder is not None and is_op(self.float_node, "MatMul")
        node = self.holder[0] if is_added and self.holder is not None else self.node
        return node.outputs[0].name or ""

    @property
    def is_map(self) -> bool:
        """Whether its outputs are channels, the second axis."""
        return self.source.window is not None

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the Relu or Clip behind it."""
        node = fused_end(self.float_node).producer()
        if is_op(node, "Relu"):
            return 0.0, np.inf
        if node is None or not is_op(node, "Clip"):
            return -np.inf, np.inf
        low, high = (constant(input_of(node, i)) for i in (1, 2))
        return (
            -np.inf if low is None else float(low),
            np.inf if high is None else float(high),
        )

    def input_grid(self) -> InputGrid | None:
        """The codes of its inputs where their scale is its own."""
        if not self.has_own_scale:
            return None
        _, clip, reader = self._input_nodes()
        scale, point = constant(reader.inputs[1]), constant(reader.inputs[2])
        bounds = (0, 255) if clip is None else code_bounds(clip)
        assert scale is not None and point is not None and bounds is not None
        return InputGrid(np.float32(scale), int(point), *bounds)

    @property
    def inputs(self) -> str:
        """The QDQ graph's value that rows are of: before its quantizer where the scale is tuned."""
        value = self.node.inputs[0]
        if self.has_own_scale:
            value = self._input_nodes()[0].inputs[0]
        assert value is not None
        return value.name or ""

    def write(self, model: ir.Model, found: Rebuilt) -> None:
        """The numbers into the QDQ graph."""
        codes, scale = (constant(v) for v in self.dequantizer.inputs[:2])
        assert codes is not None and scale is not None and found.weight.scale is not None
        narrow = found.weight.codes.astype(codes.dtype).reshape(codes.shape)
        put(model, self.dequantizer.inputs[0], narrow)
        stored = found.weight.scale if scale.ndim else found.weight.scale[:1]
        put(model, self.dequantizer.inputs[1], stored.reshape(scale.shape))
        if found.input_scale is not None:
            put(model, self._input_nodes()[0].inputs[1], np.asarray(found.input_scale))
        value = None if self.holder is None else input_of(*self.holder)
        if value is not None and found.bias is not None:
            write_bias(model, value, found.bias)

    def _input_nodes(self) -> tuple[ir.Node, ir.Node | None, ir.Node]:
        """QuantizeLinear, the Clip where there is one, DequantizeLinear."""
        reader = _producer(self.node, 0)
        assert reader is not None
        maker, clip = _producer(reader, 0), None
        if is_op(maker, "Clip"):
            assert maker is not None
            maker, clip = _producer(maker, 0), maker
        assert maker is not None
        return maker, clip, reader


def layers_of(quantized: ir.Model, normalised: ir.Model, plan: Plan) -> Iterator[RebuiltLayer]:
    """Products whose weight below 8 bits they alone read, in the order of the graph."""
    nodes = {n.name: n for n in quantized.graph}
    for node in normalised.graph:
        planned, twin = plan.nodes.get(node.name or ""), nodes.get(node.name)
        if planned is None or twin is None or not planned.may_change or is_op(node, "Gather"):
            continue
        if f"{node.name}/inner" in nodes:  # its codes alone are not its result (low_rank.py)
            continue
        source, dequantizer, weight = source_of(node), _dequantizer(twin), weight_of(node)
        if source is None or dequantizer is None or weight is None:
            continue
        if len(weight.uses()) > 1 or spec_of(dequantizer).bits == 8:
            continue
        place = bias_place(node)
        holder = None if place is None else (nodes[place[0].name], place[1])
        has_own = _has_own_scale(twin, plan)
        yield RebuiltLayer(node, twin, dequantizer, source, holder, has_own)


def _dequantizer(node: ir.Node) -> ir.Node | None:
    """Of the weight, through a Transpose."""
    maker = _producer(node, 1)
    if is_op(maker, "Transpose"):
        assert maker is not None
        maker = _producer(maker, 0)
    is_weight = maker is not None and "qcompile.spec" in maker.outputs[0].metadata_props
    return maker if is_weight else None


def _has_own_scale(node: ir.Node, plan: Plan) -> bool:
    """Whether the node alone reads codes of one static scale, which no other value shares."""
    value, reader = node.inputs[0], _producer(node, 0)
    if value is None or not is_op(reader, "DequantizeLinear"):
        return False
    assert reader is not None
    name = (reader.name or "").removesuffix("/dequantize")
    scale = constant(reader.inputs[1])
    shared = [other for other, leader in plan.leaders.items() if leader == name]
    codes = reader.inputs[0]
    return (
        scale is not None
        and not scale.ndim
        and shared == [name]
        and codes is not None
        and len(value.uses()) == len(codes.uses()) == 1
    )


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = input_of(node, index)
    return None if value is None else value.producer()
