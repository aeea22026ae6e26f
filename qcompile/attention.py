# SPDX-License-Identifier: Apache-2.0
"""Reading attention: MatMul, scale, mask, Softmax and MatMul, as exporters write them."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant, is_constant, is_op, rank

NAME = "attention"
ATTENTIONS = ("QAttention", "QDynamicAttention")
MARK = "qcompile.attention"  # metadata of the MatMul that ends one which run-time codes may compute
SOFTMAX_FORMAT = "qcompile.softmax_format"  # of the MatMul that ends one of static codes
SOFTMAX_SHIFT = "qcompile.softmax_shift"


@dataclass(frozen=True)
class Attention:
    """softmax(q · k · scale + mask) · v; q [..., L, D], k [..., D, S], v [..., S, E].

    mask: broadcasts to [..., L, S]. inside: its nodes in the order of the graph; the last one gives
    its output.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    scale: float
    mask: ir.Value | None
    inside: tuple[ir.Node, ...]

    @property
    def output(self) -> ir.Value:
        """The result."""
        return self.inside[-1].outputs[0]

    @property
    def operands(self) -> list[ir.Value]:
        """q, k and v."""
        return [self.q, self.k, self.v]


def as_meant(node: ir.Node, operand: str, array: NDArray) -> NDArray:
    """An operand of QAttention as N30 has it, of one as it lies in memory."""
    perm = attribute(node, f"{operand}_perm", None)
    if not perm:
        return array
    index = list(attribute(node, f"{operand}_index", None) or ())
    others = [axis for axis in range(array.ndim) if axis not in perm]
    picked = array.transpose([*others, *perm])[tuple(index)]
    return np.ascontiguousarray(picked)


def as_stored(node: ir.Node, array: NDArray) -> NDArray:
    """The output of QAttention as it lies in memory."""
    perm = attribute(node, "y_perm", None)
    return array if not perm else np.ascontiguousarray(array.transpose(np.argsort(perm)))


def attention_at(node: ir.Node) -> Attention | str | None:
    """The attention that a MatMul ends; a str: why it is float."""
    if not is_op(node, "MatMul"):
        return None
    weights, guard = _unguarded(node.inputs[0])
    softmax, mask = _made(weights, "Softmax"), None
    if softmax is None or softmax.inputs[0] is None:
        return None
    inside = [node, *guard, softmax]
    value = softmax.inputs[0]
    added = _made(value, "Add")
    if added is not None:
        found = _scores_of(added)
        if found is None:
            return None
        value, mask = found
        inside.append(added)
    value, factor, scaled = _unscaled(value)
    inside += scaled
    product = _made(value, "MatMul")
    if product is None or any(v is None or is_constant(v) for v in product.inputs):
        return None
    inside.append(product)
    sources: list[ir.Value] = []
    for operand in product.inputs:
        assert operand is not None
        source, more, scaled = _unscaled(operand)
        factor *= more
        sources.append(source)
        inside += scaled
    v = node.inputs[1]
    assert v is not None
    attention = Attention(sources[0], sources[1], v, factor, mask, tuple(reversed(inside)))
    return _why_not(attention, softmax) or attention


def _why_not(attention: Attention, softmax: ir.Node) -> str | None:
    """None where QAttention computes it."""
    ranks = [rank(v) for v in attention.operands]
    if None in ranks or len(set(ranks)) > 1:
        return f"{NAME}: its operands have no common, known rank"
    (dims,) = {r for r in ranks if r is not None}
    if dims < 2 or int(attribute(softmax, "axis", -1)) not in (-1, dims - 1):
        return f"{NAME}: its Softmax is not over the last axis"
    if attention.mask is not None:
        mask = attention.mask
        if mask.shape is None or mask.dtype != ir.DataType.FLOAT:
            return f"{NAME}: its mask has no known shape, or is {mask.dtype}"
        if not _broadcasts(list(mask.shape), attention):
            return f"{NAME}: its mask {mask.shape} does not broadcast to its scores"
    last, inside = attention.inside[-1], set(attention.inside)
    for node in attention.inside:
        readers = {use.node for use in node.outputs[0].uses()}
        shown = node.outputs[0].is_graph_output()
        if node is not last and (shown or not readers <= inside):
            return f"{NAME}: its scores are read"
    return None


def _broadcasts(mask: list[object], attention: Attention) -> bool:
    """Whether no axis of the mask may be longer than that of the scores."""
    q, k = (list(v.shape or ()) for v in (attention.q, attention.k))
    lead = [b if a == 1 else a for a, b in zip(q[:-2], k[:-2], strict=True)]
    scores = [*lead, q[-2], k[-1]]
    if len(mask) > len(scores):
        return False
    return all(a == 1 or b != 1 for a, b in zip(mask[::-1], scores[::-1], strict=False))


def _scores_of(added: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The scores and the mask of a sum."""
    for i, value in enumerate(added.inputs):
        source, *_ = _unscaled(value) if value is not None else (None,)
        other = added.inputs[1 - i]
        if value is not None and other is not None and _made(source, "MatMul") is not None:
            return value, other
    return None


def _unguarded(value: ir.Value | None) -> tuple[ir.Value | None, list[ir.Node]]:
    """What torch's guard against rows that see nothing lets pass: Where (IsNaN (p), 0, p)."""
    choice = _made(value, "Where")
    test = _made(choice.inputs[0], "IsNaN") if choice is not None else None
    if choice is None or test is None or test.inputs[0] is not choice.inputs[2]:
        return value, []
    nothing = constant(choice.inputs[1])
    if nothing is None or nothing.size != 1 or nothing.any():
        return value, []
    return choice.inputs[2], [choice, test]


def _unscaled(value: ir.Value) -> tuple[ir.Value, float, list[ir.Node]]:
    """What a value is a multiple of, the factor, and the nodes that multiply or divide."""
    nodes, factor = [], 1.0
    while (node := _made(value, "Mul", "Div")) is not None:
        at = next((i for i, v in enumerate(node.inputs) if _is_number(v)), None)
        if at is None or (at == 0 and node.op_type == "Div"):
            break
        number = float(constant(node.inputs[at]).ravel()[0])  # type: ignore[union-attr]
        other = node.inputs[1 - at]
        if other is None or number == 0:
            break
        factor = factor * number if node.op_type == "Mul" else factor / number
        nodes.append(node)
        value = other
    return value, factor, nodes


def _is_number(value: ir.Value | None) -> bool:
    found = constant(value) if is_constant(value) else None
    return found is not None and found.size == 1 and found.ndim <= 1


def _made(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, *op_types) else None
