# SPDX-License-Identifier: Apache-2.0
"""Insert the codes of weights that the user's model holds in codes, in the form of the QDQ graph.

Before:
    { w = DequantizeLinear <axis = 1> (w_codes, w_scale)   y = MatMul (x, w) }
After:
    { w_nk_dequantized = DequantizeLinear <axis = 0> (w_nk_codes, w_nk_scale)
      y_weight = Transpose <perm = [1, 0]> (w_nk_dequantized)   y = MatMul (x, y_weight) }
Refuses: nodes that the plan leaves as they are.

Codes and scales are those of the model, bit for bit; the codes stand as [N, K] with the spec on
them, like those that round_weights makes. MatMulNBits becomes a MatMul. A bias in codes stays if
its scale is x_scale · w_scale; another becomes floats, which round_bias codes.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import (
    FLOAT,
    add_initializer,
    constant,
    input_of,
    is_constant,
    is_op,
    new_node,
    only_consumer,
    unique_name,
)
from qcompile.imported import ImportedWeight, decoded, imported_weight, is_nbits
from qcompile.passes.normalise.split_qlinear_op_into_qdq import take_place
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.round_weights import dequantize_node, lazy_parts
from qcompile.passes.transform.stats import Work

# Two f32 roundings may lie between a tool's x_scale · w_scale and ours: 2^31 codes move by < 2^-22.
SAME_SCALE = 2.0**-22


class InsertUserCodes(NodePass):
    """Products and tables that are planned as the model has them."""

    stage = "transform"
    op_types = ("Conv", "MatMul", "Gemm", "Gather", "MatMulNBits")

    def __init__(self, work: Work, store: CodeStore) -> None:
        super().__init__()
        self.work, self.store = work, store
        self._done: dict[str, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The ops lie in two domains."""
        results = []
        for self.domain in ("", "com.microsoft"):
            results.append(super().call(model).modified)
        return ir.passes.PassResult(model, any(results))

    def match(self, node: ir.Node) -> ImportedWeight | None:
        """The weight in codes."""
        plan = self.work.plan.nodes.get(node.name or "")
        if plan is None or not plan.is_imported or not plan.is_quantized:
            return None
        found = imported_weight(node)
        return found if isinstance(found, ImportedWeight) else None

    def rewrite(self, node: ir.Node, found: ImportedWeight) -> None:
        """The product reads the weight in its new form."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        self._keep_bias(graph, node, found)
        if found.name not in self._done:
            self._done[found.name] = self._dequantized(graph, node, found)
        weight = self._done[found.name]
        if is_op(node, "Conv", "Gather"):
            node.replace_input_with(0 if is_op(node, "Gather") else 1, weight)
        elif is_op(node, "Gemm"):
            node.attributes["transB"] = ir.AttrInt64("transB", 1)
            node.replace_input_with(1, weight)
        else:
            turn = new_node(
                "Transpose",
                [weight],
                f"{node.name}/transpose",
                unique_name(graph, f"{node.outputs[0].name}_weight"),
                shape=ir.Shape(found.dims[::-1]),
                perm=[1, 0],
            )
            if not is_nbits(node):
                graph.insert_before(node, turn)
                node.replace_input_with(1, turn.outputs[0])
                return
            take_place(graph, node, _plain_product(node, turn))

    def _dequantized(self, graph: ir.Graph, node: ir.Node, weight: ImportedWeight) -> ir.Value:
        name, spec = weight.name, weight.spec
        self.store.keep(name, weight.read)
        codes, scale, zero_point = lazy_parts(self.store, name, weight.dims, spec)
        inputs: list[ir.Value | None] = [
            add_initializer(graph, f"{name}_codes", codes),
            add_initializer(graph, f"{name}_scale", scale),
        ]
        if zero_point is not None:
            inputs.append(add_initializer(graph, f"{name}_zero_point", zero_point))
        output = unique_name(graph, f"{name}_dequantized")
        dequantize = dequantize_node(spec, inputs, f"{output}/dequantize", output)
        out = dequantize.outputs[0]
        out.shape = ir.Shape(weight.dims)
        out.metadata_props.update({"qcompile.spec": str(spec), FLOAT: name})
        graph.insert_before(node, dequantize)
        return out

    def _keep_bias(self, graph: ir.Graph, node: ir.Node, weight: ImportedWeight) -> None:
        """A bias in codes of another scale becomes floats."""
        for holder, index in bias_places(node):
            value = input_of(holder, index)
            back = value.producer() if value is not None else None
            if back is None or not is_op(back, "DequantizeLinear"):
                continue
            if not is_constant(back.inputs[0]) or self._has_scale(node, back, weight):
                continue
            real = add_initializer(graph, f"{back.outputs[0].name}_float", decoded(back))
            holder.replace_input_with(index, real)

    def _has_scale(self, node: ir.Node, back: ir.Node, weight: ImportedWeight) -> bool:
        plan = self.work.plan.nodes[node.name or ""]
        codes, scale = back.inputs[0], constant(back.inputs[1])
        if plan.activation is None or plan.activation.is_dynamic or scale is None:
            return False
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        x_scale = constant(producer.inputs[1]) if producer is not None else None
        point = constant(input_of(back, 2))
        if codes is None or codes.dtype != ir.DataType.INT32 or x_scale is None:
            return False
        if point is not None and point.any():
            return False
        w_scale = weight.read().scale
        assert w_scale is not None
        expected = x_scale.reshape(-1).astype(np.float64) * w_scale[:, 0].astype(np.float64)
        return bool((np.abs(scale.reshape(-1) - expected) <= SAME_SCALE * np.abs(expected)).all())


def bias_places(node: ir.Node) -> list[tuple[ir.Node, int]]:
    """Where a bias may stand: its own input, or that of the Add behind a MatMul."""
    if is_op(node, "Conv", "Gemm"):
        return [(node, 2)]
    adder = only_consumer(node.outputs[0])
    if adder is None or not is_op(node, "MatMul") or not is_op(adder, "Add"):
        return []
    return [(adder, 1 if adder.inputs[0] is node.outputs[0] else 0)]


def _plain_product(node: ir.Node, turn: ir.Node) -> list[ir.Node]:
    """MatMulNBits as MatMul, and an Add where it has a bias."""
    out, bias = node.outputs[0], input_of(node, 5)
    x = node.inputs[0]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    name = out.name or ""
    inner = name if bias is None else unique_name(graph, f"{name}_product")
    made = [
        turn,
        new_node("MatMul", [x, turn.outputs[0]], node.name or "", inner, shape=out.shape),
    ]
    if bias is not None:
        made.append(new_node("Add", [made[1].outputs[0], bias], f"{name}/bias", name))
    return made
