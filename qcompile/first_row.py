# SPDX-License-Identifier: Apache-2.0
"""Prove that the first token of a value does not depend on the inputs, and compute it.

The proof goes back over nodes that work on each token by itself to a Concat along the tokens whose
first part is a constant (a class token), or to a constant. Data that shows the same row every time
proves nothing: with other data it may be another one.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant, is_constant, is_op, rank
from qcompile.int8_ops import FUNCTIONS, reduced_axes
from qcompile.norms import LAYER_NORM, RMS_NORMS
from qcompile.session import open_model, session_options

BY_TOKEN = (*FUNCTIONS, LAYER_NORM, *RMS_NORMS, "MatMul", "ReduceMean", "Cast", "Identity")
_TOKENS = -2  # the axis, from the end


def constant_first_row(model: ir.Model, value: ir.Value) -> NDArray[np.float32] | None:
    """Token 0 of a value [..., tokens, N] as float32 [..., 1, N], or None where it may change."""
    chain = _Chain(tokens_of(value))
    end = chain.row(value)
    if end is None:
        return None
    end.name, end.type = "first_row", value.type
    graph = ir.Graph(
        [],
        [end],
        nodes=chain.nodes,
        initializers=chain.constants,
        opset_imports=model.graph.opset_imports,
        name="row",
    )
    session = open_model(ir.Model(graph, ir_version=model.ir_version), session_options(1))
    (found,) = session.run(None, {})
    return np.asarray(found, np.float32)


class _Chain:
    """The nodes that make the row, of constants alone; tokens: how many the whole value has."""

    def __init__(self, tokens: int | None) -> None:
        self._tokens = tokens
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._known: dict[ir.Value, ir.Value | None] = {}

    def row(self, value: ir.Value) -> ir.Value | None:
        """Its first token, as a value of this chain; None where that is not proven."""
        if value not in self._known:
            self._known[value] = self._made(value)
        return self._known[value]

    def _made(self, value: ir.Value) -> ir.Value | None:
        if is_constant(value):
            return self._first_of(value)
        node = value.producer()
        if node is None or value is not node.outputs[0]:
            return None
        if is_op(node, "Expand"):
            return self.row(node.inputs[0]) if node.inputs[0] is not None else None
        if is_op(node, "Concat"):
            return self._first_part(node)
        return self._copy(node) if _is_by_token(node) else None

    def _first_of(self, value: ir.Value) -> ir.Value | None:
        """Token 0 of a constant, which all samples share."""
        array = constant(value)
        if array is None or any(n != 1 for n in array.shape[:_TOKENS]):
            return None
        if array.ndim >= 2 and not array.shape[_TOKENS]:
            return None
        return self._hold(array if array.ndim < 2 else array[..., :1, :])

    def _hold(self, array: NDArray) -> ir.Value:
        name = f"constant_{len(self.constants)}"
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        held = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.constants.append(held)
        return held

    def _first_part(self, node: ir.Node) -> ir.Value | None:
        """Of the first part of a Concat along the tokens, which has one at least."""
        dims = rank(node.outputs[0])
        if dims is None or dims < 2 or int(attribute(node, "axis")) % dims != dims + _TOKENS:
            return None
        first, *others = (tokens_of(v) for v in node.inputs)
        if first is None and self._tokens is not None and None not in others:
            rest = sum(size for size in others if size is not None)
            first = self._tokens - rest if rest > 1 else None  # one token may be for all
        return self.row(node.inputs[0]) if first and node.inputs[0] is not None else None

    def _copy(self, node: ir.Node) -> ir.Value | None:
        """The node on rows; weights and numbers are whole."""
        inputs: list[ir.Value | None] = []
        for index, value in enumerate(node.inputs):
            whole = _weight(node, index)
            if value is None or whole is not None:
                inputs.append(None if whole is None else self._hold(whole))
                continue
            row = self.row(value)
            if row is None:
                return None
            inputs.append(row)
        copied = ir.node(
            node.op_type,
            inputs,
            attributes={k: a.value for k, a in node.attributes.items()},
            domain=node.domain,
            name=f"row_{len(self.nodes)}",
        )
        copied.outputs[0].name = f"value_{len(self.nodes)}"
        self.nodes.append(copied)
        return copied.outputs[0]


def tokens_of(value: ir.Value | None) -> int | None:
    """The number of tokens of a value [..., tokens, N], where the graph knows it."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    found = value.shape[_TOKENS]
    return found if isinstance(found, int) else None


def _weight(node: ir.Node, index: int) -> NDArray | None:
    """The constant behind an input that is no tensor of tokens, or None."""
    value = node.inputs[index]
    if value is None or index == 0 or is_op(node, *FUNCTIONS):
        return None
    producer = value.producer()
    if is_op(node, "MatMul") and is_op(producer, "Transpose"):
        assert producer is not None
        source = constant(producer.inputs[0])
        perm = attribute(producer, "perm", None)
        return None if source is None else source.transpose(perm)
    return constant(value)


def _is_by_token(node: ir.Node) -> bool:
    """Whether each token of the output is made of the same token of the inputs."""
    dims = rank(node.outputs[0])
    if dims is None or dims < 2 or not is_op(node, *BY_TOKEN):
        return False
    ranks = [rank(v) for v in node.inputs if v is not None and not is_constant(v)]
    if is_op(node, "MatMul"):
        weight = _weight(node, 1)
        return weight is not None and weight.ndim == 2 and ranks[0] == dims
    if is_op(node, "ReduceMean"):
        is_last = reduced_axes(node) == [dims - 1] and bool(attribute(node, "keepdims", 1))
        return is_last and ranks == [dims]
    if is_op(node, LAYER_NORM, *RMS_NORMS):
        return int(attribute(node, "axis", -1)) % dims == dims - 1
    return all(r == dims for r in ranks)
