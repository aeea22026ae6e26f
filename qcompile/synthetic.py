# SPDX-License-Identifier: Apache-2.0
"""Synthetic data: random inputs for a model whose user gave none."""

import numpy as np
import onnx_ir as ir

from qcompile.data import Batch, Data, Feed, dtype_of
from qcompile.errors import InputError


def synthetic_data(model: ir.Model, seed: int, samples: int = 2, length: int = 16) -> Data:
    """Random inputs where the user gave none: normal floats, integers within tables they index.

    A free leading dimension is `samples`, any other free one `length`. Only agreement is measured
    on them, never accuracy.
    """
    rng = np.random.default_rng(seed)
    feed: Feed = {}
    batch = Batch.of(list(model.graph.inputs))
    for value in model.graph.inputs:
        name, dtype = value.name or "", dtype_of(value)
        if value.shape is None or dtype.kind == "O":
            what = "has no shape" if value.shape is None else "holds strings"
            raise InputError(
                f'input "{name}" {what}, so qcompile cannot make up data: give --calibration-data'
            )
        free = [
            samples if i == 0 and name in batch.sizes else length for i in range(len(value.shape))
        ]
        dims = [d if isinstance(d, int) else free[i] for i, d in enumerate(value.shape)]
        if dtype.kind in "iub":
            feed[name] = rng.integers(0, _index_limit(value), dims).astype(dtype)
        else:
            feed[name] = rng.standard_normal(dims).astype(dtype)
    return Data([feed], batch, is_synthetic=True)


def _index_limit(value: ir.Value) -> int:
    """Rows of the smallest table that the value indexes, else 2."""
    tables = [u.node.inputs[0] for u in value.uses() if u.node.op_type == "Gather" and u.idx == 1]
    sizes = [t.shape[0] for t in tables if t is not None and t.shape is not None and len(t.shape)]
    return min((s for s in sizes if isinstance(s, int)), default=2)
