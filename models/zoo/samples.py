# SPDX-License-Identifier: Apache-2.0
"""Seeded random inputs for the models of the zoo: calibration needs ranges, not meaning."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LENGTHS = {"length": 8, "past": 4}  # of the free dimensions besides the batch


def samples(model: ir.Model, count: int, seed: int) -> dict[str, NDArray]:
    """`count` samples of every input, by name.

    Normal floats; token ids below the rows of the table that they index; positions that follow the
    past; a padding mask that keeps the first half at least.
    """
    rng = np.random.default_rng(seed)
    sizes = {"batch": count, **LENGTHS}
    feed: dict[str, NDArray] = {}
    for value in model.graph.inputs:
        name, dims = value.name or "", value.shape
        assert dims is not None
        shape = [d if isinstance(d, int) else sizes[str(d.value)] for d in dims]
        if name == "position_ids":
            places = np.arange(LENGTHS["past"], LENGTHS["past"] + shape[1])
            feed[name] = np.broadcast_to(places, shape).copy()
        elif name == "attention_mask":
            kept = rng.integers(shape[1] // 2, shape[1] + 1, (count, 1))
            feed[name] = (np.arange(shape[1]) < kept).astype(np.int64)
        elif value.dtype == ir.DataType.INT64:
            feed[name] = rng.integers(0, rows(value), shape)
        else:
            feed[name] = rng.standard_normal(shape, dtype=np.float32)
    return feed


def rows(ids: ir.Value) -> int:
    """Rows of the table that the ids index."""
    (table,) = (u.node.inputs[0] for u in ids.uses() if u.node.op_type == "Gather")
    assert table is not None and table.shape is not None
    return int(table.shape[0])
