# SPDX-License-Identifier: Apache-2.0
"""The rung of verify for rotations at run time: kernels compute what nodes of the QDQ graph do.

Both round: N42 each sum of log2 n stages and a product with 1 / √n, the nodes two products of
matrices of about √n. Each of these errors is at most 2^-24 of the norm of the row, which a rotation
keeps, so an element differs by at most 2^-24 · ‖x‖ · the roundings on the longest way.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute
from qcompile.passes.lower.qdq import rotated_value
from qcompile.pieces import float_name, piece_between
from qcompile.reference import rotated
from qcompile.verdict import Check
from qcompile.verify_lowered import read_value
from qcompile.verify_nodes import float_ratio


def check_rotations(
    quantized: ir.Model, packed: ir.Model, runs: list[dict[str, NDArray]]
) -> list[Check]:
    """lower: every rotation at run time against ORT's execution of its nodes in the QDQ graph."""
    nodes = [n for n in packed.graph if attribute(n, "hadamard", 0)]
    found = {v.name: v for n in quantized.graph for v in n.outputs}
    originals = {n.name: n for n in quantized.graph}
    ratio, where, count = 0.0, "", 0
    for node in nodes:
        own = originals.get(node.name)
        value = found[float_name(node)] if own is None else read_value(own)
        last = value.producer()
        assert last is not None and node.inputs[0] is not None
        source = rotated_value(last).name or ""
        piece = piece_between(quantized, [source], value.name or "")
        for run in runs:
            x = run[node.inputs[0].name or ""]
            wanted = piece.run(None, {source: x})[0]
            gap = float_ratio(wanted, rotated(node, x), rotation_bound(node, x))
            count += x.size
            if not gap <= ratio:
                ratio, where = gap, node.name or ""
    text = "|difference from the QDQ nodes| ÷ the rounding of their sums"
    return [Check("lower: rotations", ratio, 1.0, text, where, count)] if nodes else []


def rotation_bound(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the elements of x [..., K], for two ways to compute the rotation."""
    block, size = int(attribute(node, "hadamard")), x.shape[-1]
    blocks = 2 if size % block else 1  # on the way of one element
    stages = block.bit_length() + 1
    sums = 2 * (2 << block.bit_length() // 2)  # terms of both products of matrices, and rounding
    norm = np.sqrt(np.square(x.astype(np.float64)).sum(-1, keepdims=True))
    return np.broadcast_to(blocks * (stages + sums) * 2.0**-24 * norm, x.shape)
