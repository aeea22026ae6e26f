# SPDX-License-Identifier: Apache-2.0
"""calibrate_bodies: means and compensated weights inside If, Loop and Scan.

A body is a model of its own whose data are the inputs of its steps on the calibration data. So
compensation and bias correction are those of the main graph, with a step for a sample. Static
ranges are not taken: a value that goes round in a Loop has none that some steps show.
"""

import hashlib
from collections import Counter
from dataclasses import replace

import onnx_ir as ir

from qcompile.bodies import closed_bodies
from qcompile.body_data import Kept, record_bodies
from qcompile.calibrate import calibrate
from qcompile.compensate import compensate_weights
from qcompile.data import Batch, Data
from qcompile.division import Division, Footprint
from qcompile.layer_cache import LayerCache
from qcompile.passes.transform.stats import Stats
from qcompile.plan import Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe

_STEPS, _FEEDS = 17, 256  # of a run of a Loop or Scan, and of all runs: at most
_BYTES = 1 << 28  # of recorded inputs


def calibrate_bodies(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    stats: Stats,
    division: Division,
    layers: LayerCache | None = None,
) -> Stats:
    """The statistics of the main graph with those of all bodies that the data runs."""
    bodies = {
        path: body
        for path, body in closed_bodies(model).items()
        if any(_is_rounded(node, plan) for node in body.graph)
    }
    if data is None or not bodies:
        return stats
    unshared = _with_own_weights(bodies, plan)
    kept = Kept(_STEPS, _FEEDS, min(_BYTES, division.working_bytes // 4))
    recorded = record_bodies(model, data, kept)
    means, compensated = dict(stats.means), dict(stats.compensated)
    for path, body in bodies.items():
        if recorded[path].feeds:
            own = Data(recorded[path].feeds, Batch({}))
            there = replace(division, footprint=Footprint.of(body, own))
            found = calibrate(body, replace(plan, leaders={}), recipe, own, there)
            means |= found.means
            found = compensate_weights(body, unshared, recipe, own, found, there, layers)
            compensated |= found.compensated
    return replace(stats, means=means, compensated=compensated)


def _is_rounded(node: ir.Node, plan: Plan) -> bool:
    planned = plan.nodes.get(node.name or "")
    return planned is not None and planned.is_rounded


def _with_own_weights(bodies: dict[str, ir.Model], plan: Plan) -> Plan:
    """The plan without products whose weight is in several bodies.

    Equal codes are written once; each body's own codes would be as many weights in the file.
    """
    digests: dict[str, bytes] = {}
    for body in bodies.values():
        for value in {weight_of(n) for n in body.graph if _is_rounded(n, plan)}:
            if value is not None and value.const_value is not None:
                digests[value.name or ""] = hashlib.sha256(value.const_value.tobytes()).digest()
    count = Counter(digests.values())
    nodes = {n: p for n, p in plan.nodes.items() if count[digests.get(p.weight_name, b"")] < 2}
    return replace(plan, nodes=nodes)
