# SPDX-License-Identifier: Apache-2.0
"""NodePass: visits once, keeps reasons, imports the domains of what it wrote."""

import onnx_ir as ir

from qcompile.graph import new_node, replace
from qcompile.passes.rewrite import NodePass, Refusal
from tests.passes.graphs import parse


class LowerNeg(NodePass):
    """Neg of anything but x becomes a custom op."""

    op_types = ("Neg",)

    def match(self, node: ir.Node) -> ir.Node | str | None:
        source = node.inputs[0]
        return "it reads x" if source is not None and source.name == "x" else node

    def rewrite(self, node: ir.Node, found: ir.Node) -> None:
        made = new_node("Minus", found.inputs, "made", "made", domain="some.where")
        node.graph.insert_after(node, made)
        replace(node.outputs[0], made.outputs[0])
        node.graph.remove(node, safe=True)


def test_reasons_and_domains() -> None:
    model = parse("f (float[2] x) => (float[2] y) { [a] b = Neg (x)   [c] y = Neg (b) }")
    each = LowerNeg()
    assert each(model).modified
    assert each.refusals == [Refusal("a", "it reads x")]
    assert model.opset_imports["some.where"] == 1
    assert [n.op_type for n in model.graph] == ["Neg", "Minus"]


def test_other_domains_are_no_candidates() -> None:
    model = parse("f (float[2] x) => (float[2] y) { b = com.qcompile.Neg (x)   y = Relu (b) }")
    each = LowerNeg()
    assert not each(model).modified
    assert each.refusals == []
