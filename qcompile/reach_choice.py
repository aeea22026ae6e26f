# SPDX-License-Identifier: Apache-2.0
"""choose_reach: how far the largest activation of a row may lie beyond the largest code.

Before: the plan, whose dynamic activations of fewer than 8 bits have scale = amax ÷ largest code.
After: scale = RATIO · amax ÷ largest code, where that loses less on the calibration data: a few
large elements are clipped, all others have finer codes. (QuaRot, section 4.1, takes 0.9 everywhere;
here every input has its own, and 1 where nothing is gained.)

The error is that of the products' outputs, the weights being exact: of a MatMul ‖(Q(x) − x) Wᵀ‖² on
rows, of a Conv Σ (Q(x) − x)² · ‖w_c‖² with the norms of the input channels' weights, for a scale
covers all of a sample. Products that read one value share its ratio.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.data import Data
from qcompile.division import Division
from qcompile.formats.scales import with_unit
from qcompile.graph import attribute, constant, is_op
from qcompile.numerics.quantize import quantize_dynamic
from qcompile.plan import NodePlan, Plan
from qcompile.products import weight_of
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec

# Some above 14 / 15, where the largest still rounds to the largest 4-bit code, and below.
RATIOS = tuple(round(1 - 0.02 * i, 2) for i in range(28))  # 1 … 0.46
_SAMPLES, _ROWS, _OUTPUTS = 32, 32, 128  # of the data, of a sample, of a weight

Real = NDArray[np.float64]


def choose_reach(
    model: ir.Model, plan: Plan, recipe: Recipe, data: Data | None, division: Division
) -> Plan:
    """The plan with the ratios that were chosen, and a note where anything clips."""
    inputs = {} if data is None else _inputs(model, plan)
    if data is None or not inputs:
        return plan
    wanted = {name: [name] for name in inputs}
    for group, arrays in division.runs(model, wanted, data.first(_SAMPLES)):
        for name in group:
            rng = np.random.default_rng([recipe.seed, zlib.crc32(name.encode())])
            inputs[name].update(np.asarray(arrays[name], np.float32), rng)
    nodes, chosen = dict(plan.nodes), []
    for found in inputs.values():
        ratio = RATIOS[int(np.argmin(found.errors()))]
        for planned in found.readers:
            assert planned.activation is not None
            spec = replace(planned.activation, scale_format=with_unit("f32", ratio))
            nodes[planned.node] = replace(planned, activation=spec)
            chosen.append(ratio)
    if min(chosen) == 1:
        return plan
    note = (
        f"dynamic activations below 8 bits clip at {min(chosen):g} to {max(chosen):g} of the "
        f"largest, {np.mean(chosen):.2f} on average, by the error of the outputs on the data"
    )
    return replace(plan, nodes=nodes, notes=(*plan.notes, note))


def planned(plan: Plan) -> str:
    """What a dry run with data can say; "" where nothing may clip."""
    given = [p.activation for p in plan.nodes.values() if p.is_rounded and p.activation is not None]
    if not any(spec.is_dynamic and spec.bits < 8 for spec in given):
        return ""
    return "dynamic activations below 8 bits clip where the outputs lose less by it on the data"


@dataclass
class _Input:
    """A value that products quantize at run time; weights [outputs, K], or of a Conv [1, C]."""

    spec: QuantSpec
    readers: list[NodePlan]
    weights: list[Real]
    noise: Real  # [readers, ratios]
    signal: Real  # [readers]

    def update(self, x: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Adds the errors on the value of a run."""
        is_map = self.spec.granularity == "sample"
        axes = tuple(range(1, x.ndim)) if is_map else (1,)
        if not is_map:
            x = x.reshape(-1, x.shape[-1])
            x = x[np.sort(rng.permutation(len(x))[:_ROWS])]
        self.signal += [_power(x, w, is_map=is_map) for w in self.weights]
        for at, ratio in enumerate(RATIOS):
            spec = replace(self.spec, scale_format=with_unit("f32", ratio))
            codes, scale = quantize_dynamic(x, axes, spec.bits, spec.reach)
            gap = codes * scale - x
            self.noise[:, at] += [_power(gap, w, is_map=is_map) for w in self.weights]

    def errors(self) -> Real:
        """Noise ÷ signal, summed over the readers, for each ratio."""
        of_signal = self.noise / np.where(self.signal > 0, self.signal, np.inf)[:, None]
        return np.asarray(of_signal.sum(0))


def _power(x: NDArray[np.float32], weight: Real, *, is_map: bool) -> float:
    """Σ (x Wᵀ)², or Σ x² · w over the channels of a map; 0 where there is no finite number."""
    wide = x.astype(np.float64)
    if is_map:
        found = (wide**2).sum(tuple(i for i in range(x.ndim) if i != 1)) @ weight[0]
    else:
        found = ((wide @ weight.T) ** 2).sum()
    return float(found) if np.isfinite(found) else 0.0


def _inputs(model: ir.Model, plan: Plan) -> dict[str, _Input]:
    """The values by name; those that products of several bits read keep their scales."""
    found: dict[str, _Input] = {}
    mixed = set()
    for node in model.graph:
        planned, value = plan.nodes.get(node.name or ""), node.inputs[0] if node.inputs else None
        spec = None if planned is None or not planned.is_rounded else planned.activation
        if planned is None or spec is None or value is None or not value.name:
            continue
        if not spec.is_dynamic or spec.bits == 8 or not is_op(node, "Conv", "MatMul", "Gemm"):
            mixed.add(value.name)
            continue
        known = found.setdefault(value.name, _Input(spec, [], [], np.empty(0), np.empty(0)))
        if known.spec != spec:
            mixed.add(value.name)
        known.readers.append(planned)
        known.weights.append(_weight(node))
    for each in found.values():
        each.noise = np.zeros((len(each.readers), len(RATIOS)))
        each.signal = np.zeros(len(each.readers))
    return {name: each for name, each in found.items() if name not in mixed}


def _weight(node: ir.Node) -> Real:
    """Some rows [outputs, K] of the weight; of a Conv the squared norms [1, C] of its channels."""
    weight = constant(weight_of(node))
    assert weight is not None
    if not is_op(node, "Conv"):
        chosen = np.unique(np.linspace(0, len(weight) - 1, _OUTPUTS).astype(np.int64))
        return weight[chosen].astype(np.float64)
    groups = int(attribute(node, "group", 1))
    by_group = weight.reshape(groups, -1, weight.shape[1], weight[0, 0].size).astype(np.float64)
    return np.asarray((by_group**2).sum((1, 3)).reshape(1, -1))
