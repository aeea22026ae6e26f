# SPDX-License-Identifier: Apache-2.0
"""Fold what moves the data round attention into its attributes: it reads and writes with strides.

Before:
    { t = Transpose <perm = [2, 0, 3, 1, 4]> (x)   q_part, k, v = Split <axis = 0> (t, ones)
      q = Squeeze (q_part, zero)   a = com.qcompile.QAttention (q, k, v)
      y = Transpose <perm = [0, 2, 1, 3]> (a) }
After:
    { y = com.qcompile.QAttention <q_perm = [0, 3, 1, 4], q_index = [0], y_perm = [0, 2, 1, 3]>
          (x, k, v) }
Refuses: data that is moved otherwise (operand_views.py).
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qcompile.attention import ATTENTIONS
from qcompile.graph import (
    DOMAIN,
    add_initializer,
    attribute,
    is_op,
    new_node,
    only_consumer,
    rank,
    remove_dead,
)
from qcompile.operand_views import OperandView, view_of
from qcompile.passes.rewrite import NodePass


class FoldTransposeIntoAttention(NodePass):
    """Its three operands and its output."""

    stage = "lower"
    op_types = ATTENTIONS
    domain = DOMAIN

    def match(self, node: ir.Node) -> list[OperandView | None] | None:
        """Views of the operands, None of one that lies as it is read."""
        views = [self._view(value) for value in node.inputs[:3]]
        is_turned = is_op(only_consumer(node.outputs[0]), "Transpose")
        return views if is_turned or any(views) else None

    def _view(self, value: ir.Value | None) -> OperandView | None:
        dims = rank(value)
        if value is None or dims is None:
            return None
        view = view_of(value, dims)
        return None if view.value is value else view

    def rewrite(self, node: ir.Node, found: list[OperandView | None]) -> None:
        """Read the views, and write what the Transposes behind it give."""
        passed: list[ir.Node] = []
        for index, view in enumerate(found):
            value = node.inputs[index]
            if view is None or value is None:
                continue
            name = "qkv"[index]
            source, perm, at = _as_stored(node, view, f"{value.name}_parts")
            node.attributes[f"{name}_perm"] = ir.AttrInt64s(f"{name}_perm", perm)
            if at:
                node.attributes[f"{name}_index"] = ir.AttrInt64s(f"{name}_index", at)
            node.replace_input_with(index, source)
            passed += _between(value, view.value)
        _remove_all_dead(_graph(node), passed)
        _fold_output(node)


def _as_stored(
    node: ir.Node, view: OperandView, name: str
) -> tuple[ir.Value, list[int], list[int]]:
    """The value to read, the axes of it, and the index of the others; a Reshape splits axes."""
    source = view.value
    firsts: list[int] = []
    dims: list[int] = []
    given: Sequence[object] = list(source.shape or ())
    for axis in range(view.num_axes):
        firsts.append(len(dims))
        size = given[axis] if axis < len(given) else None
        whole = (size if isinstance(size, int) else -1,)
        dims += view.parts.get(axis, whole)
    if view.parts:
        graph = _graph(node)
        shape = add_initializer(graph, f"{name}_shape", np.array(dims, np.int64))
        split = new_node(
            "Reshape",
            [source, shape],
            f"{name}/split",
            name,
            dtype=source.dtype or ir.DataType.UINT8,
        )
        split.outputs[0].metadata_props.update(source.metadata_props)
        graph.insert_before(node, [split])
        source = split.outputs[0]
    fixed = {firsts[axis] + part: at for (axis, part), at in view.fixed.items()}
    perm = [firsts[axis] + part for axis, part in view.places]
    return source, perm, [fixed[axis] for axis in sorted(fixed)]


def _between(value: ir.Value, source: ir.Value) -> list[ir.Node]:
    """The nodes that made the value of its source, the first one first."""
    nodes: list[ir.Node] = []
    while value is not source:
        node = value.producer()
        assert node is not None and node.inputs[0] is not None
        nodes.insert(0, node)
        value = node.inputs[0]
    return nodes


def _remove_all_dead(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    """In the order of the graph, since operands share some."""
    chosen = set(nodes)
    remove_dead(graph, [node for node in graph if node in chosen])


def _fold_output(node: ir.Node) -> None:
    """The Transposes that alone read the output."""
    out = node.outputs[0]
    after = only_consumer(out)
    while after is not None and is_op(after, "Transpose") and "perm" in after.attributes:
        fresh = after.outputs[0]
        inverse = [int(i) for i in np.argsort(attribute(after, "perm"))]
        own = attribute(node, "y_perm", None) or range(len(inverse))
        node.attributes["y_perm"] = ir.AttrInt64s("y_perm", [inverse[i] for i in own])
        out.shape, name = fresh.shape, fresh.name
        out.metadata_props.update(fresh.metadata_props)
        fresh.replace_all_uses_with(out, replace_graph_outputs=True)
        remove_dead(_graph(node), [after])
        out.name = name
        after = only_consumer(out)


def _graph(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph
