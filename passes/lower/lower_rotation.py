# SPDX-License-Identifier: Apache-2.0
"""Lower a rotation that is computed at run time into the QMatMul that reads it, or to Hadamard.

Before:
    { d = Mul (x, signs)   …   c = Reshape (r, [0, 0, 128])   y = com.qcompile.QMatMul (c, w) }
After:
    { y = com.qcompile.QMatMul <hadamard = 128, hadamard_seed = 0> (x, w) }
and with several readers, of which each would compute it again:
    { c = com.qcompile.Hadamard <K = 128, hadamard = 128, hadamard_seed = 0> (x)
      y = com.qcompile.QMatMul (c, w)   z = com.qcompile.QMatMul (c, v) }
Refuses: a rotation that other nodes read, which are none of the rotate stage.

The nodes before are those of online_rotation.py.
"""

import onnx_ir as ir

from qcompile.graph import DOMAIN, FLOAT, is_op, only_consumer, remove_dead, replace
from qcompile.numerics.hadamard import Hadamard
from qcompile.passes.lower.lowered import op
from qcompile.passes.lower.qdq import rotated_value, rotation_of
from qcompile.passes.rewrite import NodePass


class LowerRotation(NodePass):
    """The rows are rotated just before their codes are made, while they are in the cache."""

    stage = "lower"
    op_types = ("QMatMul",)
    domain = DOMAIN

    def match(self, node: ir.Node) -> Hadamard | str | None:
        """The rotation of its input."""
        value = node.inputs[0]
        last = None if value is None else value.producer()
        found = rotation_of(last)
        if found is None or value is None:
            return None
        readers = {u.node for u in value.uses()}
        others = [n for n in readers if not is_op(n, "QMatMul", "Hadamard", domain=DOMAIN)]
        if others or value.is_graph_output():
            return f"other nodes read the rotated {value.name}"
        return found

    def rewrite(self, node: ir.Node, found: Hadamard) -> None:
        """An attribute of the product, or one Hadamard for all readers."""
        value, graph = node.inputs[0], node.graph
        assert value is not None and isinstance(graph, ir.Graph)
        last = value.producer()
        assert last is not None
        source, inside = rotated_value(last), _nodes_of(last, graph)
        numbers = {"hadamard": found.block, "hadamard_seed": found.seed}
        is_free = is_op(node, "QMatMul", domain=DOMAIN) and "hadamard" not in node.attributes
        if is_free and only_consumer(value) is node:
            node.attributes.update({k: ir.AttrInt64(k, v) for k, v in numbers.items()})
            node.replace_input_with(0, source)
        else:
            name = value.name or ""
            numbers["K"] = found.size
            title, dtype = f"{name}/hadamard", ir.DataType.FLOAT
            made = op("Hadamard", [source], title, f"{name}_turned", dtype, **numbers)
            made.outputs[0].shape = value.shape
            made.metadata_props[FLOAT] = name
            graph.insert_after(last, made)
            replace(value, made.outputs[0])
            node = made
        remove_dead(graph, inside)
        earlier = self.match(node)  # the round before (format_rotations.py)
        if isinstance(earlier, Hadamard):
            self.rewrite(node, earlier)


def _nodes_of(last: ir.Node, graph: ir.Graph) -> list[ir.Node]:
    """The nodes of a rotation, in their order."""
    found, left, own = {last}, [last], rotation_of(last)
    while left:
        producers = {v.producer() for v in left.pop().inputs if v is not None} - found
        new = [p for p in producers if p is not None and rotation_of(p) == own]
        found |= set(new)
        left += new
    return [node for node in graph if node in found]
