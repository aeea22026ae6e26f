# SPDX-License-Identifier: Apache-2.0
"""Split the product with a constant stack of matrices into one product a matrix.

Before:
    f (float[2,1,2] x) => (float[2,1,1] y)
    <float[2,2,1] w = {1, 2, 3, 4}>
    { y = MatMul (x, w) }
After:
    f (float[2,1,2] x) => (float[2,1,1] y)
    <float[2,1] w_0 = {1, 2}, float[2,1] w_1 = {3, 4}, int64[2] y_sizes = {1, 1}>
    { y_x_0, y_x_1 = Split <axis = 0> (x, y_sizes)
      y_0 = MatMul (y_x_0, w_0)   y_1 = MatMul (y_x_1, w_1)   y = Concat <axis = 0> (y_0, y_1) }
Refuses: an x of unknown or lower rank; a stack over more than one dimension, or of more than 64;
an x whose number of matrices is not known.

A stack of one is a matrix, and splits nothing.
"""

from collections.abc import Callable

import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import is_constant, new_node, rank
from qcompile.passes.normalise.rewiring import derived, dims, give, graph_of, integers
from qcompile.passes.rewrite import NodePass

# More products than this cost more to start than one product of the stack in float.
MOST_PARTS = 64


class SplitBatchedWeight(NodePass):
    """MatMul with a constant of three or more dimensions on the right."""

    stage = "normalise"
    op_types = ("MatMul",)

    def match(self, node: ir.Node) -> int | str | None:
        """The number of matrices, or why the product stays as it is."""
        x, weight = node.inputs[0], node.inputs[1]
        if not is_constant(weight) or len(dims(weight)) < 3 or is_constant(x):
            return None
        size, x_rank = dims(weight), rank(x)
        if x is None or x.shape is None or x_rank is None or x_rank < len(size):
            return "the rank of its left operand is not known, or below its weight's"
        stacked = [d for d in size[:-2] if d != 1]
        if not stacked:
            return 1
        axis = x_rank - len(size) + next(i for i, d in enumerate(size) if d != 1)
        if len(stacked) > 1 or not 1 <= stacked[0] <= MOST_PARTS:
            return f"its weight is a stack of {' x '.join(map(str, stacked))} matrices"
        if x.shape[axis] != stacked[0]:
            return f"dimension {axis} of its left operand is not {stacked[0]}"
        return stacked[0]

    def rewrite(self, node: ir.Node, found: int) -> None:
        """Parts of x, products, and their parts in one again."""
        weight, x = node.inputs[1], node.inputs[0]
        assert weight is not None and x is not None and x.shape is not None
        size = dims(weight)
        matrix = size[-2:]
        if found == 1:
            turned = derived(node, weight, "_matrix", matrix, lambda w: w.reshape(matrix))
            node.replace_input_with(1, turned)
            return
        graph, old, dtype = graph_of(node), node.outputs[0], x.dtype or ir.DataType.FLOAT
        axis = len(x.shape) - len(size) + next(i for i, d in enumerate(size) if d != 1)
        split = ir.node(
            "Split",
            [x, integers(node, "sizes", [1] * found)],
            {"axis": axis},
            num_outputs=found,
            name=f"{node.name}/Split",
        )
        one = ir.Shape([1 if i == axis else d for i, d in enumerate(x.shape)])
        parts = []
        for i, out in enumerate(split.outputs):
            out.name, out.shape, out.type = f"{old.name}_x_{i}", one, ir.TensorType(dtype)
            part = derived(node, weight, f"_{i}", matrix, _take(i, matrix))
            name = f"{old.name}_{i}"
            shape = ir.Shape([*one[:-1], matrix[1]])
            parts.append(
                new_node("MatMul", [out, part], f"{node.name}/{i}", name, dtype=dtype, shape=shape)
            )
        values = [p.outputs[0] for p in parts]
        joined = new_node("Concat", values, f"{node.name}/Concat", "", dtype=dtype, axis=axis)
        graph.insert_before(node, [split, *parts, joined])
        give(old, joined.outputs[0])
        graph.remove(node, safe=True)


def _take(index: int, matrix: tuple[int, ...]) -> Callable[[NDArray], NDArray]:
    """What takes one matrix from the stack."""
    return lambda w: w.reshape(-1, *matrix)[index]
