# SPDX-License-Identifier: Apache-2.0
"""Split the input of products at its first token, so that both parts have scales of their own.

Before:
    { y = MatMul (x, w) }
After:
    { a = Slice (x, 0, 1, axis)   b = Slice (x, 1, end, axis)
      c = MatMul (a, w)   d = MatMul (b, w)   y = Concat (c, d) }
Where the graph proves that token 0 does not depend on the inputs (first_row.py), c is a constant,
expanded to the batch. Bias and Relu that fuse with a product go along. The weight stays one tensor.

MixDQ (Zhao et al. 2024, section 3.2) does so for the first token of a text, whose keys and values
it computes before in float. Deviation: any product with static activations and a token axis; what
the graph does not prove is a product of 8-bit activations, not a float one, which would need the
weight once more.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import TOKEN, add_initializer, new_node, only_consumer, rank, unique_name
from qcompile.products import fused_end

FIRST, OTHERS, CONSTANT, JOINED = "first", "others", "constant", "joined"
FAR = "joined, far apart"  # of a Concat whose token 0 is far from the others, too


@dataclass(frozen=True)
class Divided:
    """A product to split.

    row: what it gives for token 0, float32 [..., 1, N], where that is a constant. is_far: token 0
    of its result needs a scale of its own as well, so the joined result is no codes.
    """

    node: ir.Node
    row: NDArray[np.float32] | None = None
    is_far: bool = False


def split_first(value: ir.Value, products: list[Divided]) -> None:
    """The products of value [..., tokens, K] run on token 0 and on the others."""
    split = _Split(value)
    others = split.part(OTHERS, 1, np.iinfo(np.int64).max)
    for each in products:
        end, chain = fused_end(each.node), chain_of(each.node)
        out = split.constant(end, each.row, others) if each.row is not None else None
        if out is None:
            out = split.copy(chain, split.part(FIRST, 0, 1))
        chain[0].replace_input_with(0, others)
        split.join(chain, end, out, FAR if each.is_far else JOINED)


def chain_of(node: ir.Node) -> list[ir.Node]:
    """The product, and what fuses with it."""
    chain, end = [node], fused_end(node)
    while chain[-1].outputs[0] is not end:
        follower = only_consumer(chain[-1].outputs[0])
        assert follower is not None  # fused_end went the same way
        chain.append(follower)
    return chain


class _Split:
    """One value; its parts are made once."""

    def __init__(self, value: ir.Value) -> None:
        user = next(iter(value.uses())).node
        assert isinstance(user.graph, ir.Graph) and value.shape is not None
        self.value, self.graph = value, user.graph
        self.axis, self.lead = len(value.shape) - 2, list(value.shape[:-2])
        tokens = value.shape[-2]
        self.sizes = {FIRST: 1, OTHERS: tokens - 1 if isinstance(tokens, int) else None}
        self._parts: dict[str, ir.Value] = {}

    def _constant(self, what: str, array: NDArray) -> ir.Value:
        known = self.graph.initializers.get(f"token_{what}")
        return known if known is not None else add_initializer(self.graph, f"token_{what}", array)

    def _ints(self, *numbers: int) -> ir.Value:
        text = "_".join(map(str, numbers)) or "none"
        return self._constant(text, np.array(numbers, np.int64))

    def _shape(self, part: str, last: object) -> ir.Shape:
        return ir.Shape([*self.lead, self.sizes[part], last])  # type: ignore[list-item]

    def part(self, what: str, begin: int, end: int) -> ir.Value:
        """The tokens begin … end − 1."""
        if what not in self._parts:
            assert self.value.shape is not None
            name = unique_name(self.graph, f"{self.value.name}_{what}")
            ends = [self._ints(n) for n in (begin, end, self.axis)]
            shape = self._shape(what, self.value.shape[-1])
            node = new_node("Slice", [self.value, *ends], f"{name}/Slice", name, shape=shape)
            self._place(node, what)
            self._parts[what] = node.outputs[0]
        return self._parts[what]

    def _place(self, node: ir.Node, what: str) -> None:
        """After the value's producer, or as the first node."""
        node.metadata_props[TOKEN] = what
        producer = self.value.producer()
        if producer is None:
            self.graph.insert_before(next(iter(self.graph)), node)
        else:
            self.graph.insert_after(producer, node)

    def copy(self, chain: list[ir.Node], first: ir.Value) -> ir.Value:
        """The chain once more, for token 0."""
        mapped = {chain[0].inputs[0]: first}
        for node in chain:
            old = node.outputs[0]
            name = unique_name(self.graph, f"{old.name}_{FIRST}")
            inputs = [mapped.get(v, v) for v in node.inputs]
            made = ir.node(
                node.op_type,
                inputs,
                attributes={k: a.value for k, a in node.attributes.items()},
                domain=node.domain,
                name=f"{node.name}/{FIRST}",
            )
            made.metadata_props.update(node.metadata_props | {TOKEN: FIRST})
            out = made.outputs[0]
            out.name, out.type = name, old.type
            out.shape = self._shape(FIRST, old.shape[-1] if old.shape is not None else None)
            self.graph.insert_before(chain[0], made)
            mapped[old] = out
        return mapped[chain[-1].outputs[0]]

    def constant(self, end: ir.Value, row: NDArray, others: ir.Value) -> ir.Value | None:
        """The row [..., 1, N] for every sample; None where its rank is not that of the end."""
        if row.ndim != rank(end) or any(n != 1 for n in row.shape[:-1]):
            return None
        name = unique_name(self.graph, f"{end.name}_{FIRST}")
        held = add_initializer(self.graph, f"{name}_row", row.astype(np.float32))
        if all(n == 1 for n in self.lead):
            return held
        behind = self._ints(1, row.shape[-1])
        lead = [self._ints(0), self._ints(self.axis)]
        shape, ints = f"{name}_size", ir.DataType.INT64
        size = new_node("Shape", [others], f"{shape}/Shape", f"{shape}_all", dtype=ints)
        whole = [size.outputs[0], *lead]
        cut = new_node("Slice", whole, f"{shape}/Slice", f"{shape}_lead", dtype=ints)
        joined = [cut.outputs[0], behind]
        full = new_node("Concat", joined, f"{shape}/Concat", shape, axis=0, dtype=ints)
        last = new_node(
            "Expand",
            [held, full.outputs[0]],
            f"{name}/Expand",
            name,
            shape=self._shape(FIRST, row.shape[-1]),
        )
        last.metadata_props[TOKEN] = CONSTANT
        producer = others.producer()
        assert producer is not None
        self.graph.insert_after(producer, [size, cut, full, last])
        return last.outputs[0]

    def join(self, chain: list[ir.Node], end: ir.Value, first: ir.Value, what: str) -> None:
        """A Concat of both results, which takes the name and the readers of the end."""
        name, shape = end.name, end.shape
        for node in chain:
            out = node.outputs[0]
            last = out.shape[-1] if out.shape is not None else None
            out.shape = self._shape(OTHERS, last)
        joined = new_node(
            "Concat",
            [first, end],
            f"{name}/Concat",
            f"{name}_{JOINED}",
            shape=shape,
            axis=self.axis,
        )
        joined.metadata_props[TOKEN] = what
        for i, output in enumerate(self.graph.outputs):
            if output is end:
                self.graph.outputs[i] = joined.outputs[0]
        end.replace_all_uses_with(joined.outputs[0])
        joined.replace_input_with(1, end)
        end.name = unique_name(self.graph, f"{name}_{OTHERS}")
        joined.outputs[0].name = name
        self.graph.insert_after(chain[-1], joined)
