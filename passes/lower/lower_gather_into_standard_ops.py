# SPDX-License-Identifier: Apache-2.0
"""Lower a Gather of a quantized table to standard ops on the bytes that MatMulNBits packs.

Before:
    { y = Gather (w_dequantized, indices) }
After:
    { b = Gather (B, indices)   u = unpack (b)                 uint8, BitwiseAnd and BitShift
      y = (Cast (u) − Gather (zero_points, indices)) · Gather (scales, indices) }
or, of int8 codes with a scale a row that no MatMulNBits reads,
    { y = Cast (Gather (w_codes, indices)) · Gather (scales, indices) }
Refuses: nothing that target ort plans.

Only the gathered rows are unpacked, at run time. A tied head shares the bytes, or the codes
(move_gather_to_transposed_codes).
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import (
    add_initializer,
    constant,
    derived_initializer,
    new_node,
    remove_dead,
    replace,
)
from qcompile.passes.lower.lowered import block_scales, row_scales
from qcompile.passes.lower.nbits import NBits, is_packed_as_nbits, nbits_of
from qcompile.passes.lower.qdq import Weight, weight_codes_of
from qcompile.passes.rewrite import NodePass

UINT8, FLOAT = ir.DataType.UINT8, ir.DataType.FLOAT


class LowerGatherIntoStandardOps(NodePass):
    """Embeddings of 2, 4 and 8 bits."""

    stage = "lower"
    op_types = ("Gather",)

    def match(self, node: ir.Node) -> Weight | None:
        """The table."""
        return weight_codes_of(node.inputs[0])

    def rewrite(self, node: ir.Node, found: Weight) -> None:
        """A chain of standard ops."""
        graph, out = node.graph, node.outputs[0]
        assert isinstance(graph, ir.Graph)
        chain = _Chain(graph, node)
        make = self._of_rows if _has_plain_rows(found) else self._of_blocks
        real = make(chain, graph, found, node.inputs[1])
        real.shape = out.shape
        graph.insert_before(node, chain.nodes)
        name = out.name
        replace(out, real)
        remove_dead(graph, [node])
        real.name = name

    def _of_rows(
        self, chain: "_Chain", graph: ir.Graph, found: Weight, indices: ir.Value | None
    ) -> ir.Value:
        """Codes of rows, times their scales."""
        assert found.codes.shape is not None
        codes = chain.cast(chain.add("Gather", [found.codes, indices], ir.DataType.INT8))
        rows = row_scales(graph, found, int(found.codes.shape[0]))  # type: ignore[arg-type]
        scales = chain.add("Gather", [rows, indices], FLOAT)
        last = chain.const(np.array([-1], np.int64))
        return chain.add("Mul", [codes, chain.add("Unsqueeze", [scales, last], FLOAT)], FLOAT)

    def _of_blocks(
        self, chain: "_Chain", graph: ir.Graph, found: Weight, indices: ir.Value | None
    ) -> ir.Value:
        """Unpacked bytes."""
        nbits = nbits_of(graph, found)
        blocks = chain.add("Gather", [nbits.B, indices], UINT8)
        codes = chain.cast(self._unpack(chain, blocks, nbits.bits))
        points = self._zero_points(chain, graph, found, nbits, indices)
        scales = chain.add("Gather", [nbits.scale, indices], FLOAT)
        last = np.array([-1], np.int64)
        scales = chain.add("Unsqueeze", [scales, chain.const(last)], FLOAT)
        centred = chain.add("Sub", [codes, points], FLOAT)
        real = chain.add("Mul", [centred, scales], FLOAT)
        flat = chain.const(np.array([0] * chain.rank + [-1], np.int64))
        real = chain.add("Reshape", [real, flat], FLOAT)
        if nbits.K % nbits.block_size:
            zero, end = (chain.const(np.array([i], np.int64)) for i in (0, nbits.K))
            real = chain.add("Slice", [real, zero, end, chain.const(last)], FLOAT)
        return real

    def _unpack(self, chain: "_Chain", blocks: ir.Value, bits: int) -> ir.Value:
        """uint8 [..., num_blocks, blob] to codes [..., num_blocks, block_size]."""
        if bits == 8:
            return blocks
        last = chain.const(np.array([-1], np.int64))
        wide = chain.add("Unsqueeze", [blocks, last], UINT8)
        shifts = chain.const(np.arange(0, 8, bits, dtype=np.uint8))
        shifted = chain.add("BitShift", [wide, shifts], UINT8, direction="RIGHT")
        mask = chain.const(np.array(2**bits, np.uint8))
        codes = chain.add("Mod", [shifted, mask], UINT8)
        rank = 2 + chain.rank
        shape = chain.const(np.array([0] * (rank - 1) + [-1], np.int64))
        return chain.add("Reshape", [codes, shape], UINT8)

    def _zero_points(
        self,
        chain: "_Chain",
        graph: ir.Graph,
        weight: Weight,
        nbits: NBits,
        indices: ir.Value | None,
    ) -> ir.Value:
        """The offset of symmetric codes, or gathered zero points float [..., num_blocks, 1]."""
        if weight.zero_point is None:
            return chain.const(np.array(weight.spec.format.offset, np.float32))
        _, value = block_scales(graph, weight, nbits.N)
        points: NDArray = np.asarray(constant(value)).astype(np.int16) & 0xFF
        stored = derived_initializer(
            graph, weight.codes, "_points", lambda: ir.tensor(points.astype(np.uint8))
        )
        rows = chain.add("Gather", [stored, indices], UINT8)
        last = chain.const(np.array([-1], np.int64))
        return chain.add("Unsqueeze", [chain.cast(rows), last], FLOAT)


def _has_plain_rows(weight: Weight) -> bool:
    """Whether the codes are what the rows hold, and are not packed for a product anyway."""
    is_plain = weight.spec.bits == 8 and weight.spec.granularity != "block"
    return is_plain and weight.zero_point is None and not is_packed_as_nbits(weight)


class _Chain:
    """Nodes made one after the other, named after the Gather that they replace."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.name = graph, node.name or ""
        self.rank = len(node.inputs[1].shape or ())  # type: ignore[union-attr]
        self.nodes: list[ir.Node] = []

    def add(
        self, op_type: str, inputs: list[ir.Value | None], dtype: ir.DataType, **attributes: Any
    ) -> ir.Value:
        label = f"{self.name}/{op_type.lower()}_{len(self.nodes)}"
        node = new_node(op_type, inputs, label, label, dtype=dtype, **attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def cast(self, value: ir.Value) -> ir.Value:
        return self.add("Cast", [value], FLOAT, to=int(FLOAT))

    def const(self, array: NDArray) -> ir.Value:
        return add_initializer(self.graph, f"{self.name}/const", array)
