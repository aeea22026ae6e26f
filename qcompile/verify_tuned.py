# SPDX-License-Identifier: Apache-2.0
"""The rungs of verify for a tuned graph: the codes stayed, and the outputs are nearer to the float
model's on samples that tuning did not see."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import qcompile.runtime_ops as runtime_ops
from qcompile.bodies import nodes_of
from qcompile.division import Division
from qcompile.graph import DOMAIN, constant
from qcompile.session import open_own, session_options, with_outputs
from qcompile.tune import Tuned
from qcompile.verdict import Check


def check_tuned(
    normalised: ir.Model, rounded: ir.Model, tuned: Tuned, division: Division
) -> list[Check]:
    """tune: codes and zero points as they were; error of the outputs ÷ that before tuning."""
    if not tuned.is_tuned:
        return []
    before = {n.name: n for n in rounded.graph}
    wrong, where, count = 0, "", 0
    for node in tuned.model.graph:
        if "qcompile.spec" not in node.outputs[0].metadata_props:
            continue
        for mine, theirs in zip(node.inputs[::2], before[node.name].inputs[::2], strict=True):
            array, old = constant(mine), constant(theirs)
            if array is None or old is None:
                continue
            count += array.size
            if not np.array_equal(array, old):
                wrong, where = wrong + 1, node.name or ""
    checks = [Check("tune: codes", wrong, 0, "weights with other codes", where, count)]
    if runtime_ops.is_available() or not any(n.domain == DOMAIN for n in nodes_of(rounded)):
        names = list(tuned.targets)
        floats = division.open(with_outputs(normalised, tuned.targets.values()))
        ratio = _error(tuned.model, floats, tuned, names) / _error(rounded, floats, tuned, names)
        source = "error of the outputs on held-out samples ÷ that before tuning"
        checks.append(Check("tune: outputs", ratio, 1, source, "", len(tuned.held)))
    return checks


def _error(model: ir.Model, floats: ort.InferenceSession, tuned: Tuned, names: list[str]) -> float:
    """The sum over outputs of squared error ÷ variance, as ONNX Runtime runs the graph."""
    options = session_options()
    if any(n.domain == DOMAIN for n in nodes_of(model)):
        runtime_ops.register(options)
    session = open_own(with_outputs(model, names), "the QDQ graph", options)
    noise, power = np.zeros(len(names)), np.zeros((len(names), 3))
    for feed in tuned.held:
        made, wanted = session.run(names, feed), floats.run(None, feed)
        for i, (y, t) in enumerate(zip(made, wanted, strict=True)):
            wide = t.astype(np.float64)
            noise[i] += np.square(y - wide).sum()
            power[i] += wide.size, wide.sum(), np.square(wide).sum()
    count, total, square = power.T
    variance = np.maximum(square / count - (total / count) ** 2, 2.0**-126)
    return float((noise / count / variance).sum())
