# SPDX-License-Identifier: Apache-2.0
"""Insert a rotation that is computed at run time before products, whose weights take it back.

Before:
    { y = MatMul (x, w) }
After, blocks of 128 of 172 channels:
    { d = Mul (x, signs)   f, rest = Split (d, [128, 44])   m = Reshape (f, [0, 0, 1, 8, 16])
      l = MatMul (left, m)   r = MatMul (l, right)   t = Reshape (r, [0, 0, 128])
      c = Concat (t, rest)   …and so the last 128 channels of c…   y = MatMul (rotated, w · R) }

It is for inputs that a function makes, which no rotation passes: the hidden layer of an MLP. These
are standard nodes, so that every stage runs them; target cpu makes one attribute of them
(lower_rotation.py).
"""

import json
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import ROTATION, add_initializer, new_node
from qcompile.numerics.hadamard import Hadamard, fwht
from qcompile.rotated_weights import Turned, turn_input


def insert(value: ir.Value, readers: list[ir.Node], rotation: Hadamard, weights: Turned) -> None:
    """The readers, products [..., size] · w, read value · R and have w · R."""
    chain = _Chain(value, readers[0], rotation)
    size, block = rotation.size, rotation.block
    whole, signs = size // block * block, rotation.signs
    chain.transform(0, whole, signs[:size])
    if whole < size:
        kept = np.ones(size - block, np.float32)
        chain.transform(size - block, block, np.append(kept, signs[size:]))
    for node in readers:
        node.replace_input_with(0, chain.end)
        turn_input(node, rotation, weights)


class _Chain:
    """Nodes one after the other before the first reader; equal constants are there once."""

    def __init__(self, value: ir.Value, before: ir.Node, rotation: Hadamard) -> None:
        assert isinstance(before.graph, ir.Graph) and value.shape is not None
        self.end, self.graph, self.before = value, before.graph, before
        self.block, self.lead = rotation.block, [*value.shape[:-1]]
        self.name, self.count = f"{value.name}_rotated", 0
        fields = {"size": rotation.size, "block": rotation.block, "seed": rotation.seed}
        self.text = json.dumps(fields)
        self.key = f"rotation_{rotation.size}_{rotation.block}_{rotation.seed}"

    def constant(self, what: str, array: NDArray) -> ir.Value:
        """An initializer of the rotation."""
        name = f"{self.key}_{what}"
        known = self.graph.initializers.get(name)
        return known if known is not None else add_initializer(self.graph, name, array)

    def add(
        self, op_type: str, inputs: list[ir.Value], *dims: int, axis: int | None = None
    ) -> None:
        """One node more, whose output has these sizes behind the leading ones."""
        self.count += 1
        out = f"{self.name}_{self.count}"
        given: dict[str, Any] = {} if axis is None else {"axis": axis}
        shape = ir.Shape([*self.lead, *dims])
        node = new_node(op_type, inputs, f"{out}/{op_type}", out, shape=shape, **given)
        self._place(node)

    def transform(self, first: int, count: int, signs: NDArray[np.float32]) -> None:
        """Signs [size], then the blocks of columns first … first + count; the others stay."""
        size, block = len(signs), self.block
        self.add("Mul", [self.end, self.constant(f"signs_{first}", signs)], size)
        before, after = first, size - first - count
        parts = self._split([n for n in (before, count, after) if n])
        place = 1 if before else 0
        self.end = parts[place]
        rows = 1 << (block.bit_length() - 1) // 2
        columns = block // rows
        zeros = [0] * len(self.lead)
        grid = [count // block, rows, columns]
        factor = np.float32(1 / np.sqrt(block))
        left = self.constant(f"left_{rows}", fwht(np.eye(rows, dtype=np.float32)))
        right = self.constant(f"right_{columns}", fwht(np.eye(columns, dtype=np.float32)) * factor)
        to_grid = self.constant(f"grid_{count}_{len(zeros)}", np.array([*zeros, *grid], np.int64))
        flat = self.constant(f"flat_{count}_{len(zeros)}", np.array([*zeros, count], np.int64))
        self.add("Reshape", [self.end, to_grid], *grid)
        self.add("MatMul", [left, self.end], *grid)
        self.add("MatMul", [self.end, right], *grid)
        self.add("Reshape", [self.end, flat], count)
        parts[place] = self.end
        if len(parts) > 1:
            self.add("Concat", parts, size, axis=len(self.lead))

    def _split(self, sizes: list[int]) -> list[ir.Value]:
        """The value in parts along its last axis."""
        if len(sizes) == 1:
            return [self.end]
        self.count += 1
        name = f"{self.name}_{self.count}"
        given = self.constant("sizes_" + "_".join(map(str, sizes)), np.array(sizes, np.int64))
        node = ir.node(
            "Split",
            [self.end, given],
            {"axis": len(self.lead)},
            num_outputs=len(sizes),
            name=f"{name}/Split",
        )
        for index, (out, size) in enumerate(zip(node.outputs, sizes, strict=True)):
            out.name, out.shape = f"{name}_part{index}", ir.Shape([*self.lead, size])
            out.type = ir.TensorType(ir.DataType.FLOAT)
        self._place(node)
        return list(node.outputs)

    def _place(self, node: ir.Node) -> None:
        node.metadata_props[ROTATION] = self.text
        self.graph.insert_before(self.before, node)
        self.end = node.outputs[0]
