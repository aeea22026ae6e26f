# SPDX-License-Identifier: Apache-2.0
"""The rungs of verify for a tuned graph: the codes stayed, and the outputs are nearer to the float
model's on samples that tuning did not see."""

import onnx_ir as ir

from qcompile.division import Division
from qcompile.graph import constant
from qcompile.tuned import Tuned, outputs_ratio
from qcompile.verdict import Check


def check_tuned(
    normalised: ir.Model, rounded: ir.Model, tuned: Tuned, division: Division
) -> list[Check]:
    """tune: codes and zero points as they were, but for as many codes as it moved. Of any stage:
    error of the outputs ÷ that before it."""
    if not tuned.is_tuned:
        return []
    checks = [] if tuned.stage == "reconstruct" else [_codes_stayed(rounded, tuned)]
    ratio = outputs_ratio(normalised, rounded, tuned, division)
    if ratio is not None:
        source = "loss of the outputs on held-out samples ÷ that before"
        checks.append(Check(f"{tuned.stage}: outputs", ratio, 1, source, "", len(tuned.held)))
    return checks


def _codes_stayed(rounded: ir.Model, tuned: Tuned) -> Check:
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
            moved = tuned.moved.get(node.name or "", 0) if mine is node.inputs[0] else 0
            if int((array != old).sum()) != moved:
                wrong, where = wrong + 1, node.name or ""
    return Check(
        "tune: codes",
        wrong,
        0,
        "weights with more or fewer other codes than were moved",
        where,
        count,
    )
