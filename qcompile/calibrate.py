# SPDX-License-Identifier: Apache-2.0
"""calibrate: run the float model over the data and keep what transform needs, in bounded memory."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.batch_norm_ranges import batch_norm_ranges
from qcompile.data import Data
from qcompile.division import Division
from qcompile.errors import InputError
from qcompile.numerics.params import (
    QuantParams,
    params_of_channels,
    params_of_range,
    params_of_steps,
)
from qcompile.observers import Observer, default_method, observer_of
from qcompile.passes.transform.stats import Stats
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from qcompile.step_tables import Buckets
from qcompile.timesteps import buckets_of


class _Mean:
    """The mean over samples; rows give [K].

    Maps give [C, H, W] while all have one size, else [C, 1, 1].
    """

    def __init__(self) -> None:
        self.total: NDArray[np.float64] | None = None
        self.count = 0

    def update(self, x: NDArray[np.float32], *, is_map: bool) -> None:
        wide = x.astype(np.float64)
        if not is_map:
            part, size = wide.reshape(-1, x.shape[-1]).sum(0), x.size // max(x.shape[-1], 1)
        else:
            part, size = wide.sum(0), len(x)
            if self.total is not None and self.total.shape != part.shape:
                self.total = self.total.mean((1, 2), keepdims=True)
                part = part.mean((1, 2), keepdims=True)
        self.total = part if self.total is None else self.total + part
        self.count += size

    def value(self) -> NDArray[np.float64]:
        assert self.total is not None
        return self.total / max(self.count, 1)


class _Watched:
    """An activation: one observer, one a channel of axis 1, or one a bucket of time steps."""

    def __init__(self, spec: QuantSpec, recipe: Recipe, buckets: Buckets | None) -> None:
        self.buckets = buckets
        method = recipe.calibration_method or default_method(spec.format)
        self.spec, self.how = spec, (method, recipe.calibration_percentile)
        self.observers: list[Observer] = []

    def update(self, x: NDArray[np.float32], steps: NDArray | None) -> None:
        """x: the values of a run. steps: its time step, all of them equal."""
        if self.buckets is not None and steps is not None:
            if not self.observers:
                count = range(self.buckets.count)
                self.observers = [observer_of(*self.how, self.spec.format) for _ in count]
            self.observers[self.buckets.of(int(steps.flat[0]))].update(x)
            return
        is_split = self.spec.granularity == "axis"
        parts = [x[:, c] for c in range(x.shape[1])] if is_split else [x]
        if not self.observers:
            self.observers = [observer_of(*self.how, self.spec.format) for _ in parts]
        for observer, part in zip(self.observers, parts, strict=True):
            observer.update(part)

    def params(self) -> QuantParams:
        ranges = [observer.range() for observer in self.observers]
        if self.spec.granularity == "axis":
            return params_of_channels(ranges, self.spec.format)
        if self.buckets is not None:
            return params_of_steps(ranges, self.spec.format)
        return params_of_range(*ranges[0], self.spec.format)


def calibrate(
    model: ir.Model,
    plan: Plan,
    recipe: Recipe,
    data: Data | None,
    division: Division | None = None,
) -> Stats:
    """Ranges of static activations and means of the inputs of products; no means without data."""
    if data is None:
        return Stats(batch_norm_ranges(model, plan, recipe), {})
    leaders = sorted(set(plan.leaders.values()))
    inputs = _mean_inputs(model, plan) if recipe.bias_correction else {}
    sources = {n: plan.copies.get(n, n) for n in leaders}
    names = sorted({*sources.values(), *inputs})
    buckets = buckets_for(plan, recipe, data)
    step = [] if buckets is None else [buckets.input]
    watching = {
        n: _Watched(plan.activations[n], recipe, buckets if n in plan.stepped else None)
        for n in leaders
    }
    means = {n: _Mean() for n in inputs}
    for _, found in (division or Division()).runs(model, {n: [n, *step] for n in names}, data):
        steps = found.get(step[0]) if step else None
        for name, value in found.items():
            for leader in (n for n, source in sources.items() if source == name):
                _check_finite(name, value)
                watching[leader].update(value, steps)
            if name in means:
                means[name].update(value, is_map=inputs[name])
    ranges = {n: w.params() for n, w in watching.items()}
    return Stats(ranges, {n: m.value() for n, m in means.items()}, buckets=buckets)


def buckets_for(plan: Plan, recipe: Recipe, data: Data) -> Buckets | None:
    """Buckets of the time steps of the data, where an activation has a scale for each."""
    if not plan.stepped or recipe.timestep_input is None:
        return None
    return buckets_of(data, recipe.timestep_input, recipe.timestep_buckets)


def _check_finite(name: str, value: NDArray) -> None:
    if not np.isfinite(value).all():
        raise InputError(
            f'calibration: the float model gives NaN or infinity at "{name}", '
            "which has no static range: use a8-dynamic, or check model and data"
        )


def _mean_inputs(model: ir.Model, plan: Plan) -> dict[str, bool]:
    """Input name of every quantized product → whether a Conv reads it, as a map [B, C, H, W]."""
    found: dict[str, bool] = {}
    for node in model.graph:
        node_plan = plan.nodes.get(node.name or "")
        if node_plan is None or not node_plan.is_rounded:
            continue
        if node_plan.op_type in ("Gather", "LSTM"):
            continue
        source = node.inputs[0]
        assert source is not None
        name = source.name or ""
        found[name] = found.get(name, False) or node_plan.op_type == "Conv"
    return found
