# SPDX-License-Identifier: Apache-2.0
"""The graphs that verify checks one after the other: the main one, and the body of every holder."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qcompile.bodies import closed
from qcompile.body_data import Recording, body_data
from qcompile.data import Data
from qcompile.division import Division, Footprint
from qcompile.memory import Budget
from qcompile.verdict import Check

_CODED = ("DequantizeLinear", "Dequantize")


@dataclass(frozen=True)
class Part:
    """One graph after every stage, each a model of its own, and what goes into it (None: unknown).

    `packed` has its weights in the artifact's file.
    """

    normalised: ir.Model
    quantized: ir.Model
    lowered: ir.Model
    packed: ir.Model
    data: Data | None
    division: Division


def body_part(
    path: str,
    recording: Recording,
    stages: tuple[ir.Model, ir.Model, ir.Model, ir.Model],
    budget: Budget,
) -> tuple[Part, list[str]]:
    """The body of that path, and what the report must say of it."""
    normalised, quantized, lowered, packed = (closed(model, path) for model in stages)
    types = {v.name: v.type for v in lowered.graph.inputs}
    for value in packed.graph.inputs:  # the artifact has no types of what it captures
        value.type = value.type or types.get(value.name)
    found = body_data(recording, normalised)
    notes: list[str] = []
    data = None if isinstance(found, str) else found
    is_compiled = any(n.op_type in _CODED for n in quantized.graph)
    if is_compiled and data is None:
        notes = [f"{path}, node by node: its inputs are not known: {str(found).splitlines()[0]}"]
    elif is_compiled and data is not None and data.is_synthetic:
        notes = [f"{path} on its own inputs: the data never runs it; it ran on random ones"]
    division = (
        Division(budget) if data is None else Division(budget, Footprint.of(normalised, data))
    )
    return Part(normalised, quantized, lowered, packed, data, division), notes


def joined(checks: list[Check]) -> list[Check]:
    """One line a rung: the worst of its graphs, with the numbers of all counted.

    Limits differ from graph to graph, so the worst is what fails, or else comes nearest to its own.

    >>> joined([Check("a", 5, 10, "x", "", 1), Check("a", 2, 1, "x", "", 2)])[0]
    Check(rung='a', measured=2, limit=1, source='x', worst='', count=3)
    """
    found: dict[tuple[str, str], Check] = {}
    for check in checks:
        key = check.rung, check.source
        before = found.get(key)
        if before is None:
            found[key] = check
            continue
        worst = max(before, check, key=_badness)
        found[key] = replace(worst, count=before.count + check.count)
    return list(found.values())


def _badness(check: Check) -> tuple[bool, float]:
    if np.isnan(check.measured):
        return True, float("inf")
    return not check.passed, check.measured / check.limit if check.limit else check.measured
