# SPDX-License-Identifier: Apache-2.0
"""How far every compiled node's output is from the float model's: SQNR in dB."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division
from qcompile.passes.lower.lowered import output_scale
from qcompile.pieces import as_nchw, float_name
from qcompile.session import with_outputs
from qcompile.step_tables import STEP
from qcompile.verify_nodes import Recorded, compiled_nodes


def layer_sqnr(
    model: ir.Model,
    packed: ir.Model,
    runs: list[Recorded],
    data: Data,
    division: Division | None = None,
) -> list[tuple[str, float]]:
    """SQNR in dB of every compiled node's output against the float value of that name, worst first.

    `model` is the normalised float model. Errors of earlier nodes are in it, as they are when the
    artifact runs. data: what the runs were fed.
    """
    division = division or Division()
    known = {v.name for n in model.graph for v in n.outputs}
    nodes = {n: float_name(n) for n in compiled_nodes(packed)}
    nodes = {n: name for n, name in nodes.items() if name in known}
    if not nodes:
        return []
    signal, noise = dict.fromkeys(nodes, 0.0), dict.fromkeys(nodes, 0.0)
    _, groups = division.split({n: division.footprint.of_values([nodes[n]]) for n in nodes}, data)
    for group in groups:
        names = list(dict.fromkeys(nodes[n] for n in group))
        session = division.open(with_outputs(model, names), optimise=False)
        for run in runs:
            floats = dict(zip(names, session.run(names, run.feed), strict=True))
            for node in group:
                power, error = _powers(node, floats[nodes[node]], run)
                signal[node] += power
                noise[node] += error
    rows = [(n.name or "", _decibels(signal[n], noise[n])) for n in nodes]
    return sorted(rows, key=lambda row: row[1])


def _powers(node: ir.Node, real: NDArray, run: Recorded) -> tuple[float, float]:
    """Σ x² of the float values and Σ (x − y)² of what the node gave."""
    out = as_nchw(node, run.values[node.outputs[0].name or ""]).astype(np.float64)
    if "qcompile.scale" in node.metadata_props:
        zero_point = int(node.metadata_props["qcompile.zero_point"])
        scale = output_scale(node)
        if STEP in node.metadata_props:
            scale = scale[run.values[node.metadata_props[STEP]], 0]
        out = (out - zero_point) * (scale[:, None, None] if scale.ndim else scale)
    x = real.astype(np.float64)
    return float((x * x).sum()), float(((x - out) ** 2).sum())


def _decibels(signal: float, noise: float) -> float:
    if not noise or not signal:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if np.isfinite(noise) else float("-inf")
