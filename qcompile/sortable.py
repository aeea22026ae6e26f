# SPDX-License-Identifier: Apache-2.0
"""Find where channels may be put into another order: what only commutes with permutations, too.

Unlike a rotation an order passes every function of single elements and the product of two values
(GELU, SwiGLU), and norms keep their scale and shift, in the same order; so the hidden layers of
transformers have one, and a sum of a norm's result with anything. Everything else is as in
rotatable.py, whose walk this is.
"""

import onnx_ir as ir

from qcompile.graph import constant, is_constant, is_op
from qcompile.norms import Norm
from qcompile.plan import NodePlan
from qcompile.rotatable import Walk, found_edges
from qcompile.rotation_edge import Edge, Part

_ELEMENTWISE = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "FastGelu", "QuickGelu"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Softplus", "Softsign", "Tanh"),
    *("Erf", "Exp", "Log", "Sqrt", "Abs", "Clip", "Pow", "Sin", "Cos", "Reciprocal", "Sign"),
    *("Add", "Sub", "Mul", "Div", "Min", "Max", "Cast"),
)


def sort_edges(graph: ir.Graph) -> list[Edge]:
    """Every edge whose channels may be sorted, in the order of the graph; no refused ones."""
    return [edge for edge in found_edges(graph, _Sorting) if not edge.reason]


def has_blocks(edge: Edge, readers: list[NodePlan]) -> bool:
    """Whether an order changes which inputs of a weight share a scale.

    Blocks that hold whole heads, which all have one order, stay as they are.
    """
    sizes = [p.weight.block_size for p in readers if p.weight is not None]
    return any(0 < size < edge.block for size in sizes)


class _Sorting(Walk):
    """One edge; a norm is an op on its way, and values behind it are no others."""

    def _norm_before(self, value: ir.Value) -> Norm | None:
        return None

    def _up(self, value: ir.Value, norm: Norm | None) -> None:
        node = value.producer()
        own = None if node is None else self.norms.get(node)
        if isinstance(own, Norm):
            if own.output is value and self.parts[value] is None:
                self._take_norm(own)
            else:
                self._block(f"{value.name} lies inside norm {own.inside[0].name}")
            return
        super()._up(value, norm)

    def _enter(self, own: Norm, value: ir.Value, norm: Norm | None) -> None:
        if own.source is not value:
            self._block(f"norm {own.inside[0].name} reads {value.name} in another place")
            return
        self._take_norm(own)
        self._reach(own.output, None)

    def _feed(self, node: ir.Node, index: int, norm: Norm | None, part: Part | None) -> None:
        value = node.inputs[index]
        found = constant(value) if is_constant(value) else None
        if found is None or found.shape[-1:] not in ((), (1,)):
            super()._feed(node, index, norm, part)

    def _above(self, node: ir.Node, part: Part | None) -> bool:
        if not is_op(node, *_ELEMENTWISE) or part is not None:
            return False
        for index in range(len(node.inputs)):
            self._feed(node, index, None, None)
        return True

    def _below(self, node: ir.Node) -> bool:
        if not is_op(node, *_ELEMENTWISE):
            return False
        self._reach(node.outputs[0], None)
        return True

    def _settle(self) -> None:
        edge = self.edge
        edge.bend = ""  # nothing that an order does not pass
        super()._settle()
        edge.is_sorted = True
