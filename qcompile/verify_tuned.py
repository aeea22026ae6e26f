# SPDX-License-Identifier: Apache-2.0
"""The rungs of verify for a tuned graph: the codes stayed, and the outputs are nearer to the float
model's on samples that tuning did not see."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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
        targets = [loss.target for loss in tuned.losses.values()]
        floats = division.open(with_outputs(normalised, targets))
        wanted = [floats.run(targets, feed) for feed in tuned.held]
        ratio = _loss(tuned.model, tuned, wanted) / _loss(rounded, tuned, wanted)
        source = "loss of the outputs on held-out samples ÷ that before tuning"
        checks.append(Check("tune: outputs", ratio, 1, source, "", len(tuned.held)))
    return checks


def _loss(model: ir.Model, tuned: Tuned, wanted: list[list[NDArray]]) -> float:
    """The sum over outputs and feeds, as ONNX Runtime runs the graph."""
    options, names, total = session_options(), list(tuned.losses), 0.0
    if any(n.domain == DOMAIN for n in nodes_of(model)):
        runtime_ops.register(options)
    session = open_own(with_outputs(model, names), "the QDQ graph", options)
    for feed, targets in zip(tuned.held, wanted, strict=True):
        made = session.run(names, feed)
        for loss, y, t in zip(tuned.losses.values(), made, targets, strict=True):
            total += len(y) * loss.of(y, t)[0]
    return total
