# SPDX-License-Identifier: Apache-2.0
"""Ranges of static activations without data, from the BatchNormalizations of the user's model.

Nagel et al. 2019 (Data-Free Quantization, section 5): the output of a BatchNormalization has mean β
and deviation |γ|, and its range is β ± 6 |γ|. From there intervals follow the graph: an op gives
all that it can make of its inputs' intervals, so that every range holds its values where those of
the BatchNormalizations do. A sum of two is the sum of the intervals; adding variances instead
would be narrower, and wrong where the branches of a residual block go together.

Refuses: a convolution or matrix product without BatchNormalization behind it (the interval of a
sum of K products is about √K times too wide); an input whose range nobody says.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qcompile.errors import InputError, nearest
from qcompile.graph import constant, is_constant, is_op, only_consumer, rank
from qcompile.input_range import EVERY, Range, parse
from qcompile.int8_ops import is_function
from qcompile.intervals import Interval, by_rule
from qcompile.numerics.params import QuantParams, params_of_channels, params_of_range
from qcompile.passes.lower.lower_function import function_model
from qcompile.passes.normalise.channel_statistics import statistics_of
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.session import open_model, session_options

BATCH_NORM = "BatchNorm statistics"
BATCH_NORM_NOTE = (
    f"ranges of static activations come from {BATCH_NORM} (mean ± 6 deviations), not from data"
)

NUM_DEVIATIONS = 6.0  # n of the paper, section 5
_POINTS = 257  # at which a function is looked at between the ends of an interval


def batch_norm_ranges(model: ir.Model, plan: Plan, recipe: Recipe) -> dict[str, QuantParams]:
    """Params of every leader of the plan; InputError that names the tensors without a range."""
    leaders = sorted(set(plan.leaders.values()))
    if not leaders:
        return {}
    walk = _Walk(input_ranges(model.graph, recipe))
    for value in model.graph.inputs:
        walk.visit_input(value)
    for node in model.graph:
        walk.visit(node)
    for node in reversed(model.graph):
        walk.visit_back(node)
    known = walk.by_name
    known |= {copy: known[name] for copy, name in plan.copies.items() if name in known}
    missing = [name for name in leaders if name not in known]
    if missing:
        lines = [f"  {name}: {walk.why.get(name, 'its range is not known')}" for name in missing]
        count = f"{len(missing)} tensor{'s' * (len(missing) > 1)}"
        raise InputError(
            "static activations need ranges, and without calibration data the model's "
            f"BatchNormalizations give none for {count}\n" + "\n".join(lines) + "\n"
            "give --calibration-data, or use a preset of dynamic activations such as w8a8-dynamic"
        )
    return {name: _params(known[name], name, plan) for name in leaders}


def input_ranges(graph: ir.Graph, recipe: Recipe) -> dict[str, Range]:
    """Input name → the range that the recipe gives it; InputError for a name that none has."""
    given = {} if recipe.input_range is None else parse(recipe.input_range)
    names = [v.name or "" for v in graph.inputs]
    for name in given:
        if name != EVERY and name not in names:
            raise InputError(f"input range {name}: no such input: {nearest(name, names)}")
    found = {name: given.get(name, given.get(EVERY)) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def check_input_range(recipe: Recipe, *, has_data: bool) -> None:
    """InputError where data says already what the inputs are."""
    if has_data and recipe.input_range is not None:
        raise InputError(
            f"input range {recipe.input_range}: the calibration data says what the inputs are: "
            "leave out one of the two"
        )


def _params(found: Interval, name: str, plan: Plan) -> QuantParams:
    spec = plan.activations[name]
    if spec.granularity != "axis":
        whole = found.whole
        return params_of_range(whole.low[0], whole.high[0], spec.format)
    return params_of_channels(list(zip(found.low, found.high, strict=True)), spec.format)


# What a Slice leaves out is read by none.
MOVES_ALL = (
    *("DepthToSpace", "SpaceToDepth", "Reshape", "Flatten", "Transpose"),
    *("Squeeze", "Unsqueeze", "Identity", "Slice"),
)


@dataclass
class _Walk:
    """The intervals of the values so far.

    roots: value → the value that it is a function of, and the ops between. why: value → what keeps
    it from having an interval.
    """

    given: dict[str, Range]
    known: dict[ir.Value, Interval] = field(default_factory=dict)
    roots: dict[ir.Value, tuple[ir.Value, tuple[ir.Node, ...]]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, Interval]:
        return {v.name or "": interval for v, interval in self.known.items()}

    def visit_input(self, value: ir.Value) -> None:
        """What the user says, what its type can hold, or what a BatchNormalization knows of it."""
        name, dtype = value.name or "", value.dtype
        given = self.given.get(name)
        found = None if given is None else Interval.of(*given)
        if found is None and dtype in (ir.DataType.UINT8, ir.DataType.INT8):
            limits = np.iinfo(dtype.numpy())
            found = Interval.of(limits.min, limits.max)
        self._set(value, found)
        self.why[name] = "an input of the model: give --input-range LOW:HIGH"

    def visit(self, node: ir.Node) -> None:
        """The intervals of the node's outputs."""
        data = [v for v in node.inputs if v is not None and not is_constant(v)]
        found = self._function(node, data) or by_rule(node, [self.of(v) for v in node.inputs])
        for value in node.outputs:
            self._set(value, found)
            if value not in self.known:
                self.why[value.name or ""] = self._reason(node, data)

    def visit_back(self, node: ir.Node) -> None:
        """What only moves into a value whose interval is known lies in it, too."""
        source = node.inputs[0] if node.inputs else None
        if source is None or not is_op(node, *MOVES_ALL) or only_consumer(source) is not node:
            return
        found = self.known.get(node.outputs[0])
        if source not in self.known and found is not None:
            self.known[source] = found.whole

    def of(self, value: ir.Value | None) -> Interval | None:
        """The interval of a value or constant."""
        if value is None:
            return None
        found = constant(value)
        if found is None:
            return self.known.get(value)
        if not found.size or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
            return None
        return Interval.of(found.min(), found.max())

    def _set(self, value: ir.Value, found: Interval | None) -> None:
        """The interval, and what a BatchNormalization says of the value: whatever both allow."""
        known = statistics_of(value)
        if known is not None and _has_channels(value, len(known.mean)):
            spread = NUM_DEVIATIONS * known.deviation
            low, high = known.mean - spread, known.mean + spread
            if found is not None:
                low = np.clip(low, found.low, found.high)
                high = np.clip(high, found.low, found.high)
            found = Interval(low, high)
        if found is not None and np.isfinite([*found.low, *found.high]).all():
            self.known[value] = found

    def _function(self, node: ir.Node, data: list[ir.Value]) -> Interval | None:
        """Of a function of one value, x · sigmoid(x) too: its least and greatest on a grid."""
        if not data or not is_function(node):
            return None
        parts = [self.roots.get(v, (v, ())) for v in data]
        root, interval = parts[0][0], self.known.get(parts[0][0])
        if any(p[0] is not root for p in parts) or interval is None:
            return None
        nodes = tuple(dict.fromkeys([*(n for _, inside in parts for n in inside), node]))
        grid = np.linspace(interval.low, interval.high, _POINTS).astype(np.float32)
        dims = [1] * ((rank(root) or 1) - 1) + [grid.size]
        session = open_model(function_model(nodes, dims), session_options(1, optimise=False))
        made = session.run(None, {"x": grid.reshape(dims)})[0].reshape(grid.shape)
        self.roots[node.outputs[0]] = (root, nodes)
        return Interval(made.min(axis=0).astype(np.float64), made.max(axis=0).astype(np.float64))

    def _reason(self, node: ir.Node, data: list[ir.Value]) -> str:
        """The first cause: what came before has none, or this op has no rule."""
        before = next((v for v in data if v not in self.known), None)
        label = f"{node.op_type} {node.name}"
        if is_op(node, "Conv", "Gemm", "MatMul"):
            return f"{label} has no BatchNormalization behind it"
        if before is not None:
            return self.why.get(before.name or "", f"{before.name} has no range")
        return f"nothing is known of what {label} gives"


def _has_channels(value: ir.Value, count: int) -> bool:
    """Whether axis 1 has so many indices, or may have them."""
    dims = value.shape
    return dims is None or (len(dims) > 1 and dims[1] == count)
