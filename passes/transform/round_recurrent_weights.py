# SPDX-License-Identifier: Apache-2.0
"""Round the two weights of an LSTM to int8 codes, one scale an output of every direction.

Before:
    { y = LSTM (x, w, r) }
After:
    { w_dequantized = DequantizeLinear <axis = 0> (w_codes, w_scale)
      w_directions = Reshape (w_dequantized, w_shape)
      … the same of r …
      y = LSTM (x, w_directions, r_directions) }
Refuses: nodes that the plan leaves in float.

The codes are a matrix, [directions · 4 · hidden, K], because DequantizeLinear has one axis.
"""

import numpy as np
import onnx_ir as ir

from qcompile.graph import FLOAT, add_initializer, is_constant, new_node
from qcompile.passes.rewrite import NodePass
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.round_weights import dequantize_node, lazy_parts
from qcompile.passes.transform.stats import Work
from qcompile.spec import QuantSpec

WEIGHTS = (1, 2)  # the inputs W [D, 4 · hidden, K] and R [D, 4 · hidden, hidden]


class RoundRecurrentWeights(NodePass):
    """W and R of quantized nodes, shared ones once."""

    stage = "transform"
    op_types = ("LSTM",)

    def __init__(self, work: Work, store: CodeStore) -> None:
        super().__init__()
        self.work, self.store = work, store
        self._done: dict[str, ir.Value] = {}

    def match(self, node: ir.Node) -> QuantSpec | None:
        """The spec of both weights."""
        plan = self.work.plan.nodes.get(node.name or "")
        return plan.weight if plan is not None and is_constant(node.inputs[1]) else None

    def rewrite(self, node: ir.Node, found: QuantSpec) -> None:
        """The node reads the dequantized codes."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for index in WEIGHTS:
            value = node.inputs[index]
            assert value is not None
            if value.name not in self._done:
                self._done[value.name or ""] = self._dequantized(graph, value, found)
            node.replace_input_with(index, self._done[value.name or ""])

    def _dequantized(self, graph: ir.Graph, value: ir.Value, spec: QuantSpec) -> ir.Value:
        tensor, name = value.const_value, value.name or ""
        assert tensor is not None
        directions, rows, columns = (int(d) for d in tensor.shape.numpy())
        matrix = (directions * rows, columns)
        flat = ir.LazyTensor(
            lambda: ir.tensor(tensor.numpy().reshape(matrix)), tensor.dtype, ir.Shape(matrix)
        )
        self.store.add(name, flat, spec)
        codes, scale, _ = lazy_parts(self.store, name, matrix, spec)
        inputs: list[ir.Value | None] = [
            add_initializer(graph, f"{name}_codes", codes),
            add_initializer(graph, f"{name}_scale", scale),
        ]
        back = dequantize_node(spec, inputs, f"{name}/dequantize", f"{name}_dequantized")
        back.outputs[0].shape = ir.Shape(matrix)
        back.outputs[0].metadata_props.update({"qcompile.spec": str(spec), FLOAT: name})
        shape = add_initializer(graph, f"{name}_shape", np.array(value.shape, np.int64))
        reshape = new_node(
            "Reshape",
            [back.outputs[0], shape],
            f"{name}/directions",
            f"{name}_directions",
            shape=value.shape,
        )
        graph.insert_before(_first_reader(graph, value), [back, reshape])
        return reshape.outputs[0]


def _first_reader(graph: ir.Graph, value: ir.Value) -> ir.Node:
    readers = {use.node for use in value.uses()}
    return next(n for n in graph if n in readers)
