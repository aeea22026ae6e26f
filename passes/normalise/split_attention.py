# SPDX-License-Identifier: Apache-2.0
"""Split the weights out of com.microsoft Attention: MatMul, Add, Split and MultiHeadAttention.

Before:
    f (float[1,1,2] x) => (float[1,1,2] y)
    <float[2,6] w = {1, 0, 0, 1, 2, 0, 0, 1, 1, 0, 0, 1}, float[6] b = {0, 1, 0, 0, 0, 1}>
    { y = com.microsoft.Attention <num_heads = 1> (x, w, b) }
After:
    f (float[1,1,2] x) => (float[1,1,2] y)
    <float[2,6] w = {1, 0, 0, 1, 2, 0, 0, 1, 1, 0, 0, 1}, float[6] b = {0, 1, 0, 0, 0, 1},
     int64[3] y_sizes = {2, 2, 2}>
    { y_product = MatMul (x, w)   y_qkv = Add (y_product, b)
      y_query, y_key, y_value = Split <axis = -1> (y_qkv, y_sizes)
      y = com.microsoft.MultiHeadAttention <num_heads = 1> (y_query, y_key, y_value) }
Refuses: a weight that is not constant; past and present; rotary embeddings; a mask that is not
[batch, total length].

ONNX Runtime runs MultiHeadAttention as fast; only the product was hidden in Attention.
"""

import onnx_ir as ir

from qcompile.graph import attribute, input_of, is_constant, new_node, rank
from qcompile.passes.normalise.rewiring import dims, give, graph_of, integers
from qcompile.passes.rewrite import NodePass

_KEPT = ("num_heads", "mask_filter_value", "scale", "unidirectional")


class SplitAttention(NodePass):
    """Self-attention with the three projections in one weight [K, 3N]."""

    stage = "normalise"
    op_types = ("Attention",)
    domain = "com.microsoft"

    def match(self, node: ir.Node) -> list[int] | str | None:
        """The widths of query, key and value, or why the node stays."""
        weight, mask = node.inputs[1], input_of(node, 3)
        if not is_constant(weight):
            return "its weight is not constant"
        if input_of(node, 4) is not None or input_of(node, 6) is not None:
            return "it reads the past"
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            return "its present is read"
        if attribute(node, "do_rotary", 0):
            return "it has rotary embeddings"
        if mask is not None and rank(mask) != 2:
            return "its mask is not [batch, total length]"
        sizes = attribute(node, "qkv_hidden_sizes", None)
        return list(sizes) if sizes else [dims(weight)[1] // 3] * 3

    def rewrite(self, node: ir.Node, found: list[int]) -> None:
        """Product, bias, parts, attention."""
        x, weight, bias, *_ = [*node.inputs, None]
        graph, old = graph_of(node), node.outputs[0]
        product = _insert(node, "MatMul", [x, weight], "product", sum(found))
        if bias is not None:
            product = _insert(node, "Add", [product, bias], "qkv", sum(found))
        sizes = integers(node, "sizes", found)
        split = ir.node(
            "Split", [product, sizes], {"axis": -1}, num_outputs=3, name=f"{node.name}/Split"
        )
        for out, part, width in zip(split.outputs, ("query", "key", "value"), found, strict=True):
            out.name, out.shape, out.type = f"{old.name}_{part}", _rows(node, width), old.type
        extra = [None, input_of(node, 3), input_of(node, 5)]
        while extra and extra[-1] is None:
            extra.pop()
        attention = new_node(
            "MultiHeadAttention",
            [*split.outputs, *extra],
            f"{node.name}/MultiHeadAttention",
            "",
            domain="com.microsoft",
            dtype=old.dtype or ir.DataType.FLOAT,
            **{k: node.attributes[k].value for k in _KEPT if k in node.attributes},
        )
        graph.insert_before(node, [split, attention])
        give(old, attention.outputs[0])
        graph.remove(node, safe=True)


def _rows(node: ir.Node, width: int) -> ir.Shape | None:
    """The shape of x with another last dimension."""
    x = node.inputs[0]
    return None if x is None or x.shape is None else ir.Shape([*list(x.shape)[:-1], width])


def _insert(
    node: ir.Node, op_type: str, inputs: list[ir.Value | None], part: str, width: int
) -> ir.Value:
    """The output of a new node before the attention."""
    output = node.outputs[0]
    made = new_node(
        op_type,
        inputs,
        f"{node.name}/{op_type}",
        f"{output.name}_{part}",
        dtype=output.dtype or ir.DataType.FLOAT,
        shape=_rows(node, width),
    )
    graph_of(node).insert_before(node, made)
    return made.outputs[0]
