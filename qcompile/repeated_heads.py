# SPDX-License-Identifier: Apache-2.0
"""Heads of keys or values that several heads of queries share, behind the nodes that repeat them.

Grouped-query attention in exporters' words: Unsqueeze, Expand, Reshape, and Transposes behind them.
"""

from dataclasses import dataclass

import onnx_ir as ir

from qcompile.graph import attribute, constant, input_of, is_op


@dataclass(frozen=True)
class Repeated:
    """Transpose (source, perm) has the heads that `nodes` repeat, each as often in a row."""

    source: ir.Value
    perm: list[int]
    nodes: tuple[ir.Node, ...]


def before_repeats(value: ir.Value) -> Repeated | None:
    """What the value repeats; None where it repeats nothing."""
    rank = len(value.shape or ())
    perm, nodes = list(range(rank)), []
    while (node := value.producer()) is not None and is_op(node, "Transpose"):
        inner = attribute(node, "perm", None)
        if inner is None or node.inputs[0] is None:
            return None
        perm, value = [inner[i] for i in perm], node.inputs[0]
        nodes.append(node)
    chain = _chain(value)
    if chain is None:
        return None
    source, axis = chain[-1].inputs[0], _new_axis(chain[-1], rank)
    if source is None or axis is None or not _fits(source, chain, axis):
        return None
    return Repeated(source, perm, (*nodes, *chain))


def _chain(value: ir.Value) -> list[ir.Node] | None:
    """The Reshape, Expand and Unsqueeze that made the value, the last one first."""
    nodes = []
    for op_type in ("Reshape", "Expand", "Unsqueeze"):
        node = value.producer()
        if node is None or not is_op(node, op_type) or node.inputs[0] is None:
            return None
        nodes.append(node)
        value = node.inputs[0]
    return nodes


def _new_axis(node: ir.Node, rank: int) -> int | None:
    """Where Unsqueeze puts its axis, behind the one that is repeated."""
    axes = constant(input_of(node, 1))
    if axes is None or axes.size != 1:
        return None
    axis = int(axes.ravel()[0]) % (rank + 1)
    return axis if 0 < axis < rank else None


def _fits(source: ir.Value, chain: list[ir.Node], axis: int) -> bool:
    """Whether Expand changes the new axis alone, and Reshape joins it to the one before."""
    old, new = list(source.shape or ()), list(chain[0].outputs[0].shape or ())
    wide = list(chain[1].outputs[0].shape or ())
    if len(old) != len(new) or len(wide) != len(old) + 1:
        return False
    copies, heads = wide[axis], old[axis - 1]
    if not isinstance(copies, int) or not isinstance(heads, int):
        return False
    if new[axis - 1] != heads * copies or copies < 1:
        return False
    kept = [d for i, d in enumerate(wide) if i != axis]
    pairs = [*zip(old, kept, strict=True), *zip(old, new, strict=True)]
    return not any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for i, (a, b) in enumerate(pairs)
        if i % len(old) != axis - 1
    )
