# SPDX-License-Identifier: Apache-2.0
"""Move QuantizeLinear before the Transpose of a graph output, which ONNX Runtime would change.

Before:
    { a = Relu (x)   t = Transpose (a)   q = QuantizeLinear (t, s, z) }    # a is a graph output
After:
    { a = Relu (x)   a_codes = QuantizeLinear (a, s, z)   q = Transpose (a_codes) }
Refuses: scales of channels behind other ops; a Transpose with other readers, or whose source has
others.

ONNX Runtime (1.32, basic optimisations) moves such a quantizer itself, through the ops below too.
It then gives dequantized codes where the graph output is asked for: of one that nothing else reads.
"""

import onnx_ir as ir

from qcompile.graph import (
    attribute,
    constant,
    input_of,
    is_op,
    new_node,
    only_consumer,
    remove_dead,
    replace,
    unique_name,
)
from qcompile.passes.rewrite import NodePass

_PASSED = ("Reshape", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Identity")


class MoveQuantizeBeforeTranspose(NodePass):
    """Ops that move codes as they move numbers; the largest number has the largest code."""

    stage = "lower"
    op_types = ("QuantizeLinear",)

    def match(self, node: ir.Node) -> list[ir.Node] | str | None:
        """The ops from the graph output to the quantizer, the Transpose first."""
        chain: list[ir.Node] = []
        value = node.inputs[0]
        while value is not None and is_op(before := value.producer(), "Transpose", *_PASSED):
            assert before is not None
            if only_consumer(value) is None:
                return None
            chain, value = [before, *chain], before.inputs[0]
            if is_op(before, "Transpose"):
                break
        if value is None or not chain or not is_op(chain[0], "Transpose"):
            return None
        if not value.is_graph_output() or len(value.uses()) > 1:
            return None
        if len(chain) == 1 or _is_one_number(node):
            return chain
        return f"scales of channels do not move past {chain[-1].op_type}"

    def rewrite(self, node: ir.Node, found: list[ir.Node]) -> None:
        """A quantizer of the graph output; the ops move its codes."""
        graph, codes, source = node.graph, node.outputs[0], found[0].inputs[0]
        assert isinstance(graph, ir.Graph) and source is not None and codes.dtype is not None
        first = new_node(
            "QuantizeLinear",
            [source, *node.inputs[1:]],
            node.name or "",
            unique_name(graph, f"{source.name}_codes"),
            dtype=codes.dtype,
            shape=source.shape,
        )
        first.attributes.update(node.attributes)
        if not _is_one_number(node):
            perm = attribute(found[0], "perm") or range(len(source.shape or ()))[::-1]
            axis = perm[int(attribute(node, "axis", 1)) % len(perm)]
            first.attributes["axis"] = ir.AttrInt64("axis", axis)
        first.outputs[0].metadata_props.update(codes.metadata_props)
        graph.insert_before(found[0], first)
        found[0].replace_input_with(0, first.outputs[0])
        for moved in found:
            moved.outputs[0].type = ir.TensorType(codes.dtype)
        name, last = codes.name, found[-1].outputs[0]
        last.metadata_props.update(codes.metadata_props)
        replace(codes, last)
        remove_dead(graph, [node])
        last.name = name


def _is_one_number(node: ir.Node) -> bool:
    scale = constant(input_of(node, 1))
    return scale is not None and scale.size == 1
