# SPDX-License-Identifier: Apache-2.0
"""normalise: the model in few op kinds, BatchNorm folded, weights [N, K], names frozen."""

import onnx_ir as ir

from qcompile.passes import NORMALISE
from qcompile.stage import Inspector, run_passes


def normalise(source: ir.Model, inspect: Inspector | None = None) -> ir.Model:
    """A normalised copy; tensors are shared with the source."""
    return run_passes(source.clone(), "normalise", NORMALISE(), inspect)
