# SPDX-License-Identifier: Apache-2.0
"""The rung of verify for tables of functions that the time step chooses: every row, every code.

Other rungs run a few samples, which have a few time steps; multipliers and biases of all of them
are compared as constants (verify_lowered.py).
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import DOMAIN, is_op, rank
from qcompile.numerics.lut import CODES
from qcompile.pieces import OUTPUT, qdq_piece, source_names
from qcompile.step_tables import Buckets, buckets_of_table, table_of_steps
from qcompile.verdict import Check


def check_step_tables(packed: ir.Model, quantized: ir.Model) -> list[Check]:
    """lower: tables by time step: ONNX Runtime's codes of the QDQ nodes, for all 256 codes."""
    found = {v.name: v for n in quantized.graph for v in n.outputs}
    wrong, where, count = 0, "", 0
    for node in packed.graph:
        if not is_op(node, "QLut", domain=DOMAIN) or OUTPUT not in node.metadata_props:
            continue
        held, table = node.inputs[1], table_of_steps(node.inputs[1])
        if held is None or table is None:
            continue
        source = found[source_names(node)[0]]
        piece, dims = qdq_piece(quantized, node), [1] * ((rank(source) or 1) - 1) + [256]
        buckets = buckets_of_table(held)
        for bucket, row in enumerate(table.rows):
            feed = {source.name or "": CODES.reshape(dims)}
            for value in piece.get_inputs():
                if value.name == buckets.input:
                    feed[value.name] = _step(packed, buckets, bucket)
            bad = int((piece.run(None, feed)[0].ravel() != row).sum())
            count += row.size
            if bad:
                wrong, where = wrong + bad, node.name or ""
    text = "codes that differ from those of the QDQ nodes"
    return [Check("lower: tables by time step", wrong, 0, text, where, count)] if count else []


def _step(model: ir.Model, buckets: Buckets, bucket: int) -> NDArray:
    """A time step of the bucket, as the input takes it."""
    value = next(v for v in model.graph.inputs if v.name == buckets.input)
    assert value.dtype is not None and value.shape is not None
    step = int(np.argmax(buckets.of_step == bucket))
    return np.full([1] * len(value.shape), step, value.dtype.numpy())
