# SPDX-License-Identifier: Apache-2.0
"""Tape: a QDQ graph forward and in reverse in NumPy, as far as numbers that are tuned reach.

Leaves are the arrays that a loss is derived by: weights behind their dequantizers, biases, scales
of static activations. What depends on no leaf is an entry: the float model gives it. Rounding has
the slope 1 between the ends of the codes (Bengio et al. 2013, section 4), a scale that of LSQ
(Esser et al. 2020, section 2.1): q − x / s inside, q where the codes end.
"""

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import DOMAIN, attribute, constant, is_constant, is_op
from qcompile.plan import Plan
from qcompile.products import code_bounds
from qcompile.reverse_codes import dynamic, static, static_by_step
from qcompile.reverse_ops import OPS, Op
from qcompile.reverse_products import Pull, Real, Result
from qcompile.spec import QuantSpec
from qcompile.step_tables import buckets_of_table, table_of_steps

_NO_FLOATS = ("Shape", "Size", "Equal", "Less", "Greater", "Not", "And", "Or", "ArgMax", "NonZero")
_QUANTIZED = ("QuantizeLinear", "Clip", "Quantize")  # of codes: their dequantizer is the step


@dataclass(frozen=True)
class Step:
    """One op: names of what it reads ("" where an input is absent) and of what it gives."""

    op: Op
    node: ir.Node
    inputs: tuple[str, ...]
    output: str


@dataclass
class Tape:
    """The steps in their order.

    weights: leaf → the dequantizer of its codes. biases: leaf → its value. scales: leaf → the
    quantizers of all values that share the scale. entries: what the float model has to give.
    outputs: float outputs of the graph that depend on leaves. constants: of initializers.
    """

    steps: list[Step] = field(default_factory=list)
    weights: dict[str, ir.Node] = field(default_factory=dict)
    biases: dict[str, ir.Value] = field(default_factory=dict)
    scales: dict[str, list[ir.Node]] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, NDArray] = field(default_factory=dict)
    products: int = 0  # multiplications of the last run
    _pulls: list[tuple[Pull, Step]] = field(default_factory=list)

    @classmethod
    def of(cls, quantized: ir.Model, plan: Plan) -> "Tape | str":
        """The tape of a QDQ graph, or why it has none."""
        builder = _Builder(cls(), plan)
        for node in quantized.graph:
            problem = builder.visit(node)
            if problem is not None:
                return problem
        tape = builder.tape
        tape.outputs = [v.name or "" for v in quantized.graph.outputs if v.name in builder.moving]
        if not tape.outputs:
            return "no output depends on weights in codes"
        return tape

    def run(
        self,
        leaves: dict[str, Real],
        entries: dict[str, NDArray],
        wanted: list[str] | None = None,
        *,
        keeps: bool = False,
    ) -> dict[str, Real]:
        """The outputs, or the values wanted, for reverse to start from where `keeps`."""
        wanted = self.outputs if wanted is None else wanted
        values: dict[str, NDArray] = {**self.constants, **leaves, **entries}
        left = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        self._pulls, self.products = [], 0
        for i, step in enumerate(self.steps):
            given = [values[name] if name else None for name in step.inputs]
            values[step.output], pull = step.op(step.node, *given)
            self.products += _products(step, given, values[step.output])
            if keeps:
                self._pulls.append((pull, step))
            for name in step.inputs:
                if left[name] == i and name not in wanted:
                    values.pop(name, None)
        return {name: values[name] for name in wanted}

    def reverse(self, seeds: dict[str, Real], watched: Container[str] = ()) -> dict[str, Real]:
        """Gradients by the leaves and by what is watched, from those by the outputs; once after a
        run that keeps.
        """
        found, leaves = dict(seeds), dict[str, Real]()
        known = self.weights.keys() | self.biases.keys() | self.scales.keys()
        made = {step.output for step in self.steps}
        while self._pulls:
            pull, step = self._pulls.pop()
            gradient = found.pop(step.output, None)
            if gradient is None:
                continue
            if step.output in watched:
                leaves[step.output] = gradient
            for name, part in zip(step.inputs, pull(gradient), strict=False):
                if part is None or not name:
                    continue
                kept = leaves if name in known else found if name in made else None
                if kept is not None:
                    kept[name] = kept[name] + part if name in kept else part
        return leaves


@dataclass
class _Builder:
    """What the nodes so far gave; moving: values that depend on leaves."""

    tape: Tape
    plan: Plan
    moving: set[str] = field(default_factory=set)

    def visit(self, node: ir.Node) -> str | None:
        """Add the node; a reason where it has no reverse."""
        out = node.outputs[0].name or ""
        if is_op(node, "DequantizeLinear") or is_op(node, "Dequantize", domain=DOMAIN):
            return self._dequantizer(node, out)
        if is_op(node, *_QUANTIZED) and self._is_coded(node):
            return None
        if is_op(node, "Quantize", domain=DOMAIN) or is_op(node, *_NO_FLOATS):
            return None
        if not self._reads_moving(node):
            return None
        if is_op(node, "Split"):
            return self._split(node)
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPS:
            return f"{node.op_type} has no gradient here ({node.name})"
        self._add(OPS[node.op_type], node, list(node.inputs), out)
        return None

    def _dequantizer(self, node: ir.Node, out: str) -> str | None:
        codes = node.inputs[0]
        assert codes is not None
        if is_constant(codes) or table_of_steps(codes) is not None:
            known = self.tape.weights if "qcompile.spec" in node.outputs[0].metadata_props else None
            if known is not None:
                known[out] = node
            else:
                self.tape.biases[out] = node.outputs[0]
            self.moving.add(out)
            return None
        maker = codes.producer()
        if is_op(maker, "Quantize", domain=DOMAIN):
            assert maker is not None
            self._add(dynamic(maker), node, [maker.inputs[0]], out)
            return None
        bounds = (0, 255)
        if is_op(maker, "Clip"):
            assert maker is not None and maker.inputs[0] is not None
            bounds, maker = code_bounds(maker) or bounds, maker.inputs[0].producer()
        scale = constant(node.inputs[1])
        name = "" if maker is None else (maker.name or "").removesuffix("/quantize")
        if is_op(maker, "QuantizeLinear") and table_of_steps(node.inputs[1]) is not None:
            assert maker is not None
            leaf = f"scales of {self.plan.leaders.get(name, name)}"
            return self._stepped(node, maker, bounds, leaf)
        if not is_op(maker, "QuantizeLinear") or scale is None:
            return f"codes of an unknown kind ({node.name})"
        assert maker is not None
        is_tuned = name in self.plan.leaders and not scale.ndim
        leaf = f"scale of {self.plan.leaders.get(name, name)}"
        if is_tuned:
            self.tape.scales.setdefault(leaf, []).append(maker)
        self._add(static(node, bounds, is_tuned=is_tuned), node, [maker.inputs[0]], out)
        if is_tuned:
            step = self.tape.steps[-1]
            self.tape.steps[-1] = Step(step.op, node, (*step.inputs, leaf), out)
        return None

    def _stepped(
        self, node: ir.Node, maker: ir.Node, bounds: tuple[int, int], leaf: str
    ) -> str | None:
        """Codes whose scale the time step chooses: the leaf is the table of scales."""
        graph, scale, out = node.graph, node.inputs[1], node.outputs[0].name or ""
        assert isinstance(graph, ir.Graph) and scale is not None
        buckets = buckets_of_table(scale)
        step = next(v for v in graph.inputs if v.name == buckets.input)
        self.tape.scales.setdefault(leaf, []).append(maker)
        op = static_by_step(buckets, int(np.asarray(constant(node.inputs[2]))), bounds)
        self._add(op, node, [maker.inputs[0], step], out)
        last = self.tape.steps[-1]
        self.tape.steps[-1] = Step(last.op, node, (*last.inputs, leaf), out)
        return None

    def _split(self, node: ir.Node) -> str | None:
        for index, value in enumerate(node.outputs):
            self._add(_part(index), node, list(node.inputs), value.name or "")
        return None

    def _add(self, op: Op, node: ir.Node, inputs: list[ir.Value | None], out: str) -> None:
        for value in inputs:
            if value is None or value.name in self.moving:
                continue
            array, name = constant(value), value.name or ""
            if _is_bias(node, value) and array is not None:
                self.tape.biases[name] = value
                self.moving.add(name)
            elif array is not None:
                self.tape.constants[name] = array
            elif name not in self.tape.entries:
                self.tape.entries.append(name)
        names = tuple("" if v is None else v.name or "" for v in inputs)
        self.tape.steps.append(Step(op, node, names, out))
        self.moving.add(out)

    def _reads_moving(self, node: ir.Node) -> bool:
        return any(v is not None and v.name in self.moving for v in node.inputs)

    def _is_coded(self, node: ir.Node) -> bool:
        """Whether it makes codes of a static activation: of floats, or a Clip of codes."""
        source = node.inputs[0]
        maker = None if source is None else source.producer()
        return is_op(node, "QuantizeLinear") or is_op(maker, "QuantizeLinear")


def _is_bias(node: ir.Node, value: ir.Value) -> bool:
    """Whether a constant is the float bias of a product, an Add's vector among them."""
    if is_op(node, "Conv", "Gemm"):
        return len(node.inputs) > 2 and node.inputs[2] is value
    if not is_op(node, "Add"):
        return False
    other = node.inputs[0] if node.inputs[1] is value else node.inputs[1]
    is_product = other is not None and is_op(other.producer(), "MatMul")
    return is_product and value.shape is not None and len(value.shape) == 1


def _part(index: int) -> Op:
    """One output of a Split."""

    def op(node: ir.Node, x: Real, sizes: NDArray | None = None) -> Result:
        axis, count = attribute(node, "axis", 0) % x.ndim, len(node.outputs)
        given = attribute(node, "split") if sizes is None else sizes
        each = -(-x.shape[axis] // count)
        ends = np.cumsum([each] * count if given is None else list(given))
        start, end = (0, *ends)[index], min(int(ends[index]), x.shape[axis])
        at = (*[slice(None)] * axis, slice(int(start), end))

        def pull(g: Real) -> tuple[Real | None, ...]:
            out = np.zeros(x.shape, g.dtype)
            out[at] = g
            return out, None

        return x[at], pull

    return op


def _products(step: Step, given: list[NDArray | None], y: Real) -> int:
    """Multiplications of a product, else 0."""
    kind = step.node.op_type
    if kind not in ("Conv", "MatMul", "Gemm"):
        return 0
    first, weight = given[:2]
    assert first is not None and weight is not None
    return y.size * (weight[0].size if kind == "Conv" else first.shape[-1])


def spec_of(node: ir.Node) -> QuantSpec:
    """What the dequantizer of a weight says of its codes."""
    return QuantSpec.parse(node.outputs[0].metadata_props["qcompile.spec"])
