# SPDX-License-Identifier: Apache-2.0
"""Fuse complex products whose weights are the fourth roots of unity into products with ±1.

Before:
    f (float[2,1] r, float[2,1] i) => (float[2,2] u, float[2,2] v)
    <float[1,2] a = {3, 0}, float[1,2] b = {0, -3}>
    { p = MatMul (r, a)   q = MatMul (i, b)   u = Add (p, q)
      s = MatMul (r, b)   t = MatMul (i, a)   v = Sub (s, t) }
After:
    f (float[2,1] r, float[2,1] i) => (float[2,2] u, float[2,2] v)
    <float[2,2] u_roots = {1.5, -1.5, -1.5, -1.5}>
    { u_roots_0 = Add (r, i)   u_roots_1 = Sub (i, r)
      u_roots_2 = Concat <axis = 1> (u_roots_0, u_roots_1)   u = MatMul (u_roots_2, u_roots)
      v_roots_0 = Sub (r, i)   v_roots_1 = Add (r, i)
      v_roots_2 = Concat <axis = 1> (v_roots_0, v_roots_1)   v = MatMul (v_roots_2, u_roots) }
Refuses: weights that are no roots times one scale of the real and one of the imaginary ones, unless
the format iroots2 is asked for them.

iFairy (Wang et al. 2025, section 3) trains weights in {1, i, −1, −i}. Turned by 45 degrees a root
is a pair of signs, root = ((u − v) + (u + v) i) / 2, so both parts of the product are sums of ±1
times sums of the inputs: 2 bits a complex weight in place of two ternary matrices, and two products
in place of four. All signs of both sums are taken, the conjugate's of the paper and the plain ones.
Deviation: the paper codes the real and the imaginary inputs, here their sums are coded.

Of any weights a + b i the product with [a + b; b − a] / 2 in place of the signs is the same: where
iroots2 is asked for, they are turned so, and their signs are the nearest roots (complex_roots.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    ROOTS,
    add_initializer,
    constant,
    is_op,
    new_node,
    rank,
    remove_dead,
    replace,
    unique_name,
)
from qcompile.passes.rewrite import NodePass

Term = tuple[float, ir.Node]  # a sign and a product


@dataclass(frozen=True)
class Found:
    """The node of the imaginary part, and both parts' products and signs.

    real: of xr · A and xi · B; imaginary: of xr · B and xi · A.
    """

    other: ir.Node
    real: tuple[Term, Term]
    imaginary: tuple[Term, Term]


class FuseComplexRootsIntoMatmul(NodePass):
    """Begins at the real part."""

    stage = "normalise"
    op_types = ("Add", "Sub")

    def __init__(self, is_turned: Callable[[ir.Node], bool] = lambda _: False) -> None:
        super().__init__()
        self.is_turned = is_turned

    def match(self, node: ir.Node) -> Found | str | None:
        """Both parts, or why they stay."""
        real = _terms(node)
        found = None if real is None else _other_part(node, real)
        if found is None:
            return None
        (_, first), (_, second) = found.real
        a, b = constant(first.inputs[1]), constant(second.inputs[1])
        if a is None or b is None or a.ndim != 2 or a.shape != b.shape:
            return None
        if rank(first.inputs[0]) is None or (rank(first.inputs[0]) or 0) < 2:
            return "the rank of its input is not known"
        return found if is_of_roots(a, b) or self.is_turned(first) else None

    def rewrite(self, node: ir.Node, found: Found) -> None:
        """Two products with one weight."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        (_, first), (_, second) = found.real
        a, b = constant(first.inputs[1]), constant(second.inputs[1])
        assert a is not None and b is not None
        scales = np.abs(a).max(), np.abs(b).max()
        are_roots = is_of_roots(a, b)
        is_equal = scales[0] == scales[1] or not are_roots
        half = np.float32(0.5) * (scales[0] if is_equal else np.float32(1))
        made = half * signs(a, b) if are_roots else turned_weight(a, b)
        weight = add_initializer(graph, f"{node.outputs[0].name}_roots", made)
        factors = (None, None) if is_equal else scales
        parts = ((node, found.real, factors, 0), (found.other, found.imaginary, factors[::-1], 1))
        for old, terms, wanted, turned in parts:
            product = self._replace(old, terms, wanted, turned, weight)
            if self.is_turned(first):
                product.metadata_props[ROOTS] = "turned"
        remove_dead(graph, [first, second, *(p for _, p in found.imaginary), node, found.other])
        remove_dead(graph, [first, second, *(p for _, p in found.imaginary)])

    def _replace(
        self,
        old: ir.Node,
        terms: tuple[Term, Term],
        factors: tuple[Any, Any],
        turned: int,
        weight: ir.Value,
    ) -> ir.Node:
        """The product of one part: (±xr ± xi, with one of them turned) · [U; V]; turned: which."""
        graph, output = old.graph, old.outputs[0]
        assert isinstance(graph, ir.Graph)
        made: list[ir.Node] = []

        def op(op_type: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
            name = unique_name(graph, f"{output.name}_roots_{len(made)}")
            made.append(new_node(op_type, inputs, name, name, **attributes))
            return made[-1].outputs[0]

        values = []
        for (_, product), factor in zip(terms, factors, strict=True):
            value = product.inputs[0]
            assert value is not None
            if factor is not None:
                scale = add_initializer(
                    graph, f"{output.name}_root_scale", np.array(factor, np.float32)
                )
                value = op("Mul", [value, scale])
            values.append(value)
        signed = [sign for sign, _ in terms]
        sums = []
        for flipped in (None, turned):
            one, two = (-s if i == flipped else s for i, s in enumerate(signed))
            sums.append(_sum(op, values, one, two))
        axis = (rank(values[0]) or rank(terms[0][1].inputs[0]) or 2) - 1
        x = op("Concat", sums, axis=axis)
        y = op("MatMul", [x, weight])
        y.shape = output.shape
        graph.insert_after(old, made)
        kept = output.name
        replace(output, y)
        if y.name != kept:
            output.name, y.name = unique_name(graph, f"{kept}_parts"), kept
        return made[-1]


def is_of_roots(a: NDArray, b: NDArray) -> bool:
    """Whether a + b i are fourth roots of unity times a scale of the real and of the others."""
    is_real = a != 0
    if not (is_real ^ (b != 0)).all() or not is_real.any() or is_real.all():
        return False
    return len(np.unique(np.abs(a[is_real]))) == 1 and len(np.unique(np.abs(b[~is_real]))) == 1


def signs(a: NDArray, b: NDArray) -> NDArray[np.float32]:
    """[U; V], float32 [2 K, N]: the signs of re + im and of im − re."""
    real, imaginary = np.sign(a), np.sign(b)
    return np.concatenate([real + imaginary, imaginary - real]).astype(np.float32)


def turned_weight(a: NDArray, b: NDArray) -> NDArray[np.float32]:
    """[U; V] / 2, float32 [2 K, N], of any weights a + b i."""
    real, imaginary = a.astype(np.float64), b.astype(np.float64)
    return (np.concatenate([real + imaginary, imaginary - real]) / 2).astype(np.float32)


def _sum(op: Any, values: list[ir.Value], one: float, two: float) -> ir.Value:
    """±x ± y."""
    x, y = values
    if one > 0:
        return op("Add" if two > 0 else "Sub", [x, y])
    return op("Sub", [y, x]) if two > 0 else op("Neg", [op("Add", [x, y])])


def _terms(node: ir.Node) -> tuple[Term, Term] | None:
    """The two products that the node adds or subtracts."""
    products = [v.producer() if v is not None else None for v in node.inputs]
    if not all(is_op(p, "MatMul") for p in products):
        return None
    first, second = products
    assert first is not None and second is not None
    return (1.0, first), (1.0 if is_op(node, "Add") else -1.0, second)


def _other_part(node: ir.Node, real: tuple[Term, Term]) -> Found | None:
    """The imaginary part beside it: the same inputs, with the other's weight each."""
    for at in range(2):  # a sum may name xi · B first
        (_, first), (_, second) = ordered = real if at == 0 else real[::-1]
        x, weight = first.inputs[0], first.inputs[1]
        assert x is not None and weight is not None
        for use in x.uses():
            if not is_op(use.node, "MatMul") or use.node.inputs[1] is not second.inputs[1]:
                continue
            for reader in use.node.outputs[0].uses():
                terms = _terms(reader.node) if is_op(reader.node, "Add", "Sub") else None
                if terms is None or reader.node is node:
                    continue
                own = terms if terms[0][1] is use.node else terms[::-1]
                (_, b), (_, a) = own
                if b is use.node and (a.inputs[0], a.inputs[1]) == (second.inputs[0], weight):
                    return Found(reader.node, ordered, own)
    return None
