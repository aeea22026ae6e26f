# SPDX-License-Identifier: Apache-2.0
"""settle_formats: what a spec leaves to the weight, read from it.

A fitted codebook gets its levels, UE4M3 scales get the tensor's unit: the largest of a weight's
scales becomes 448, the largest that is stored (NVFP4; "INT v.s. FP", section 3).
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.bodies import compiled_graphs
from qcompile.observers.levels import fitted_format
from qcompile.plan import Plan
from qcompile.products import weight_of
from qcompile.spec import QuantSpec

_LARGEST = 448.0
_LEAST_UNIT = 2.0**-126


def settle_formats(model: ir.Model, plan: Plan) -> Plan:
    """The plan with the specs settled; nodes that share a weight share what is read from it."""
    weights = {
        node.name or "": weight_of(node)
        for graph in compiled_graphs(model)
        for node in graph
        if _is_open(plan, node.name or "")
    }
    settled: dict[tuple[str, QuantSpec], QuantSpec] = {}
    nodes = dict(plan.nodes)
    for name, value in weights.items():
        spec = nodes[name].weight
        assert spec is not None and value is not None and value.const_value is not None
        key = value.name or "", spec
        if key not in settled:
            array = value.const_value.numpy()
            settled[key] = settled_spec(array.reshape(len(array), -1), spec)
        nodes[name] = replace(nodes[name], weight=settled[key])
    return replace(plan, nodes=nodes)


def settled_spec(weight: NDArray[np.float32], spec: QuantSpec) -> QuantSpec:
    """The spec of a weight [N, K] with nothing left open."""
    if spec.scale_format == "ue4m3":
        absmax = float(max(weight.max(), -weight.min()))
        unit = absmax / (spec.format.absmax(symmetric=True) * _LARGEST)
        stored = np.float32(max(unit, _LEAST_UNIT) if absmax else 1.0)
        spec = replace(spec, scale_format=f"ue4m3*{float(stored)!r}")
    if spec.format.is_fitted:
        spec = replace(spec, format=fitted_format(weight, spec))
    return spec


def _is_open(plan: Plan, name: str) -> bool:
    """Whether the node's weight is rounded here and its spec leaves something open."""
    node = plan.nodes.get(name)
    if node is None or node.weight is None or not node.is_rounded:
        return False
    return node.weight.format.is_fitted or node.weight.scale_format == "ue4m3"
