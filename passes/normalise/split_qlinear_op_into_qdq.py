# SPDX-License-Identifier: Apache-2.0
"""Split an op that computes on codes into its plain op between dequantizers and a quantizer.

Before:
    f (uint8[1,1] a) => (uint8[1,1] y)
    <float s = {0.5}, uint8 z = {1}, uint8[1,1] b = {3}>
    { y = QLinearMatMul (a, s, z, b, s, z, s, z) }
After:
    f (uint8[1,1] a) => (uint8[1,1] y)
    <float s = {0.5}, uint8 z = {1}, uint8[1,1] b = {3}>
    { _a_real = DequantizeLinear (a, s, z)   _b_real = DequantizeLinear (b, s, z)
      y_real = MatMul (_a_real, _b_real)   y = QuantizeLinear (y_real, s, z) }
Refuses: a bias whose scale is computed at run time; channels_last pools.

QLinearConv and QLinearMatMul of ONNX, QGemm and the QLinear ops of com.microsoft. The bias of a
QLinearConv or QGemm has the scale x_scale · w_scale.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, constant, new_node, unique_name
from qcompile.imported import MICROSOFT
from qcompile.passes.rewrite import NodePass

_DROPPED = {"channels_last", "opset"}
_ONE = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
    "QLinearReduceMean": "ReduceMean",
}
_TWO = {"QLinearMatMul": "MatMul", "QLinearAdd": "Add", "QLinearMul": "Mul"}


@dataclass(frozen=True)
class Parts:
    """The plain op; triples (codes, scale, zero point) of inputs; the output's pair; the bias."""

    op_type: str
    inputs: list[list[ir.Value | None]]
    output: list[ir.Value | None]
    axes: tuple[int, ...]
    bias: ir.Value | None = None


def parts_of(node: ir.Node) -> Parts | None:
    """What the op computes, or None where it is no such op."""
    found = list(node.inputs) + [None] * 10
    if node.op_type in _ONE:
        return Parts(_ONE[node.op_type], [found[:3]], found[3:5], (1,))
    if node.op_type in _TWO:
        return Parts(_TWO[node.op_type], [found[:3], found[3:6]], found[6:8], (1, 1))
    if node.op_type == "QLinearConv":
        return Parts("Conv", [found[:3], found[3:6]], found[6:8], (1, 0), found[8])
    if node.op_type == "QGemm":
        axis = 0 if attribute(node, "transB", 0) else 1
        return Parts("Gemm", [found[:3], found[3:6]], found[7:9], (1, axis), found[6])
    if node.op_type == "QLinearConcat":
        triples = [list(node.inputs[i : i + 3]) for i in range(2, len(node.inputs), 3)]
        return Parts("Concat", triples, found[:2], (1,) * len(triples))
    return None


class SplitQlinearOpIntoQdq(NodePass):
    """Every op of the operator form that has a plain one."""

    stage = "normalise"
    is_global = True  # of the main graph only: verify cannot cut a model inside its bodies
    op_types = (*_ONE, *_TWO, "QLinearConv", "QGemm", "QLinearConcat")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The ops lie in two domains."""
        results = []
        for self.domain in ("", MICROSOFT):
            results.append(super().call(model).modified)
        return ir.passes.PassResult(model, any(results))

    def match(self, node: ir.Node) -> Parts | str | None:
        """The parts, or why they cannot be told."""
        parts = parts_of(node)
        if parts is None or not parts.inputs:
            return None
        if attribute(node, "channels_last", 0):
            return "its channels are last"
        if parts.bias is not None and _bias_scale(parts) is None:
            return "the scale of its bias is computed at run time"
        if any(v is None or v.const_value is None for v in (t[1] for t in parts.inputs)):
            return "a scale is computed at run time"
        return parts

    def rewrite(self, node: ir.Node, found: Parts) -> None:
        """Dequantizers, the op, the quantizer, which keeps the output's name."""
        graph, out = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        backs: dict[tuple, ir.Node] = {}
        read = []
        for triple, axis in zip(found.inputs, found.axes, strict=True):
            same = (*triple, axis)
            backs[same] = backs.get(same) or _dequantize(graph, node, triple, axis)
            read.append(backs[same].outputs[0])
        added = list(backs.values())
        if found.bias is not None:
            scale = add_initializer(graph, f"{found.bias.name}_scale", _bias_scale(found))  # type: ignore[arg-type]
            added.append(_dequantize(graph, node, [found.bias, scale, None], 0))
            read.append(added[-1].outputs[0])
        name = out.name or ""
        is_real = found.output[0] is None  # QGemm without an output scale gives floats
        plain = new_node(
            found.op_type,
            read,
            node.name or "",
            name if is_real else unique_name(graph, f"{name}_real"),
            shape=out.shape,
        )
        for key, each in node.attributes.items():
            if key not in _DROPPED:
                plain.attributes[key] = each
        made = [plain] if is_real else [plain, _quantize(node, plain.outputs[0], found.output)]
        take_place(graph, node, [*added, *made])


def _quantize(node: ir.Node, real: ir.Value, params: list[ir.Value | None]) -> ir.Node:
    """The quantizer that gives the op's codes."""
    point, out = params[1], node.outputs[0]
    dtype = point.dtype if point is not None and point.dtype is not None else ir.DataType.UINT8
    inputs = [real, *(v for v in params if v is not None)]
    name, output = f"{node.name}/quantize", out.name or ""
    return new_node("QuantizeLinear", inputs, name, output, dtype=dtype, shape=out.shape)


def take_place(graph: ir.Graph, node: ir.Node, made: list[ir.Node]) -> None:
    """The last of the nodes gives what `node` gave, under its name; `node` goes."""
    old, last = node.outputs[0], made[-1].outputs[0]
    name = old.name
    graph.insert_before(node, made)
    for i, output in enumerate(graph.outputs):
        if output is old:
            last.shape, last.type = old.shape or last.shape, old.type or last.type
            graph.outputs[i] = last
    old.replace_all_uses_with(last)
    graph.remove(node, safe=True)
    last.name = name


def _bias_scale(parts: Parts) -> np.ndarray | None:
    x_scale, w_scale = constant(parts.inputs[0][1]), constant(parts.inputs[1][1])
    if x_scale is None or w_scale is None:
        return None
    product = np.float64(x_scale.reshape(-1)[0]) * w_scale.astype(np.float64)
    return np.asarray(product.astype(np.float32)).reshape(() if product.size == 1 else (-1,))


def _dequantize(
    graph: ir.Graph, node: ir.Node, triple: list[ir.Value | None], axis: int
) -> ir.Node:
    codes, scale, _ = triple
    assert codes is not None and scale is not None
    name = unique_name(graph, f"{node.name}_{codes.name}_real")
    inputs = [v for v in triple if v is not None]
    back = new_node("DequantizeLinear", inputs, f"{name}/dequantize", name, shape=codes.shape)
    if scale.shape is not None and scale.shape not in ((), (1,)):
        back.attributes["axis"] = ir.AttrInt64("axis", axis)
    return back
