# SPDX-License-Identifier: Apache-2.0
"""Turn an Einsum of an activation and a constant that is a matrix product into MatMul.

Before:
    f (float[1,2,2] x) => (float[1,2,1] y)
    <float[2,1] w = {1, 2}>
    { y = Einsum <equation = "bsd,dn->bsn"> (x, w) }
After:
    f (float[1,2,2] x) => (float[1,2,1] y)
    <float[2,1] w_kn = {1, 2}>
    { y = MatMul (x, w_kn) }
Refuses: an ellipsis; a letter twice in one operand; a letter that both operands and the result
have; a letter that one operand alone has and the result has not; no letter that both share.

Several letters of one role become one dimension by a Reshape, and orders change by a Transpose.
"""

import math
from dataclasses import dataclass

import onnx_ir as ir

from qcompile.graph import add_initializer, attribute, is_constant
from qcompile.passes.normalise.rewiring import append, changed, dims, graph_of, integers, prepend
from qcompile.passes.rewrite import NodePass


@dataclass(frozen=True)
class Letters:
    """Which letters an equation has: of x, of the weight, of the result, and those summed over."""

    weight_at: int
    x: str
    weight: str
    result: str

    @property
    def summed(self) -> str:
        """Letters that x and the weight share, in the order of the weight."""
        return "".join(c for c in self.weight if c in self.x)

    @property
    def kept(self) -> str:
        """The other letters of x, in the order of the result, which saves turning it."""
        return "".join(c for c in self.result if c in self.x)

    @property
    def made(self) -> str:
        """The other letters of the weight, in the order of the result."""
        return "".join(c for c in self.result if c in self.weight)


class LowerEinsumIntoMatmul(NodePass):
    """Two operands, one of them constant."""

    stage = "normalise"
    op_types = ("Einsum",)

    def match(self, node: ir.Node) -> Letters | str | None:
        """The letters by role, or why the equation is no product of matrices."""
        constants = [i for i, v in enumerate(node.inputs) if is_constant(v)]
        if len(node.inputs) != 2 or len(constants) != 1:
            return None
        equation = str(attribute(node, "equation")).replace(" ", "")
        if "..." in equation:
            return "its equation has an ellipsis"
        operands, _, result = equation.partition("->")
        left, _, right = operands.partition(",")
        if "->" not in equation:
            result = "".join(sorted(c for c in set(left + right) if (left + right).count(c) == 1))
        at = constants[0]
        x, weight = (right, left) if at == 0 else (left, right)
        return _problem(x, weight, result) or Letters(at, x, weight, result)

    def rewrite(self, node: ir.Node, found: Letters) -> None:
        """Operands in order, the product, and the result in order."""
        weight, x = node.inputs[found.weight_at], node.inputs[1 - found.weight_at]
        assert weight is not None and x is not None
        size = dict(zip(found.weight, dims(weight), strict=True))
        k, n = (math.prod(size[c] for c in part) for part in (found.summed, found.made))
        order = [found.weight.index(c) for c in found.summed + found.made]
        matrix = changed(weight, (k, n), lambda w: w.transpose(order).reshape(k, n))
        made = add_initializer(graph_of(node), f"{weight.name}_kn", matrix)
        node.op_type = "MatMul"
        node.attributes.clear()
        node.replace_input_with(0, x)
        node.replace_input_with(1, made)
        _order_input(node, found, size)
        _order_output(node, found, size)


def _problem(x: str, weight: str, result: str) -> str | None:
    if any(len(set(part)) < len(part) for part in (x, weight, result)):
        return "a letter stands twice in one operand of its equation"
    shared = set(x) & set(weight)
    if shared & set(result):
        return "its operands and its result share a letter: a product for each of its values"
    if not shared:
        return "its operands share no letter"
    if (set(x) ^ set(weight)) - set(result):
        return "it sums over a letter of one operand"
    return None


def _order_input(node: ir.Node, found: Letters, size: dict[str, int]) -> None:
    x = node.inputs[0]
    assert x is not None
    known = dict(zip(found.x, x.shape or [None] * len(found.x), strict=True))
    wanted = found.kept + found.summed
    if wanted != found.x:
        perm = [found.x.index(c) for c in wanted]
        shape = ir.Shape([known[c] for c in wanted])
        prepend(node, 0, "Transpose", suffix="x", shape=shape, perm=perm)
    if len(found.summed) > 1:
        k = math.prod(size[c] for c in found.summed)
        target = integers(node, "x_shape", [0] * len(found.kept) + [k])
        shape = ir.Shape([*(known[c] for c in found.kept), k])
        prepend(node, 0, "Reshape", target, suffix="rows", shape=shape)


def _order_output(node: ir.Node, found: Letters, size: dict[str, int]) -> None:
    x = node.inputs[0]
    assert x is not None
    rows = list(x.shape or [None] * (len(found.kept) + 1))[:-1]
    if found.kept + found.made != found.result:
        wanted = [(found.kept + found.made).index(c) for c in found.result]
        inner = ir.Shape([*rows, *(size[c] for c in found.made)])
        append(node, "Transpose", suffix="ordered", shape=inner, perm=wanted)
    if len(found.made) != 1:
        target = integers(node, "shape", [0] * len(found.kept) + [size[c] for c in found.made])
        n = math.prod(size[c] for c in found.made)
        append(node, "Reshape", target, suffix="product", shape=ir.Shape([*rows, n]))
