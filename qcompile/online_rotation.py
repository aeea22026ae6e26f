# SPDX-License-Identifier: Apache-2.0
"""Insert a rotation that is computed at run time before products, whose weights take it back.

Before:
    { y = MatMul (x, w) }
After:
    { m = Reshape (x, [0, 0, 43, 4])   l = MatMul (leftᵀ, m)   r = MatMul (l, right)
      t = Reshape (r, [0, 0, 172])   y = MatMul (t, w · U) }

It is for inputs that a function makes, which no rotation passes: the hidden layer of an MLP.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import ROTATION, add_initializer, new_node
from qcompile.numerics.hadamard import Mixing
from qcompile.rotated_weights import Turned, turn_input


def insert(value: ir.Value, readers: list[ir.Node], mixing: Mixing, weights: Turned) -> None:
    """The readers, products [..., size] · w, read value · U and have w · U."""
    assert value.shape is not None
    left, right = mixing.matrices
    lead = [*value.shape[:-1]]
    zeros = [0] * len(lead)
    chain = _Chain(value, readers[0], mixing)
    if len(right) > 1:
        sizes = [len(left), len(right)]
        chain.add("Reshape", np.array([*zeros, *sizes], np.int64), [*lead, *sizes])
        chain.add("MatMul", left.T.astype(np.float32), [*lead, *sizes], is_left=True)
        chain.add("MatMul", right.astype(np.float32), [*lead, *sizes])
        chain.add("Reshape", np.array([*zeros, mixing.size], np.int64), [*lead, mixing.size])
    else:
        chain.add("MatMul", left.astype(np.float32), [*lead, mixing.size])
    for node in readers:
        node.replace_input_with(0, chain.end)
        turn_input(node, mixing, weights)


class _Chain:
    """Nodes one after the other before the first reader; equal constants are there once."""

    def __init__(self, value: ir.Value, before: ir.Node, mixing: Mixing) -> None:
        assert isinstance(before.graph, ir.Graph)
        self.end, self.graph, self.before, self.mixing = value, before.graph, before, mixing
        self.name, self.count = f"{value.name}_rotated", 0

    def add(self, op_type: str, array: NDArray, shape: list, *, is_left: bool = False) -> None:
        """One node more, whose output has the shape."""
        kind = {"Reshape": "shape", "MatMul": "left" if is_left else "right"}[op_type]
        sizes = "x".join(map(str, array.tolist() if array.ndim == 1 else array.shape))
        name = f"rotation_{self.mixing.size}_{self.mixing.seed}_{kind}_{sizes}"
        known = self.graph.initializers.get(name)
        held = known if known is not None else add_initializer(self.graph, name, array)
        inputs = [held, self.end] if is_left else [self.end, held]
        self.count += 1
        out = f"{self.name}_{self.count}"
        node = new_node(op_type, inputs, f"{out}/{op_type}", out, shape=ir.Shape(shape))
        node.metadata_props[ROTATION] = self.mixing.text
        self.graph.insert_before(self.before, node)
        self.end = node.outputs[0]
