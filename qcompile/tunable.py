# SPDX-License-Identifier: Apache-2.0
"""Numbers of a QDQ graph that are tuned: scales of weights and activations, and biases.

Codes of weights stay. Scales move by a factor exp(t), so that they keep their sign; biases by t
times the root mean square of what they are added to. A step of Adam on t then means the same
everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import constant, is_op
from qcompile.numerics.quantize import bias_codes, store_scale
from qcompile.passes.transform.adam import adam
from qcompile.reverse import Tape, spec_of
from qcompile.reverse_products import Real
from qcompile.spec import QuantSpec
from qcompile.step_tables import table_of_steps
from qcompile.verify_compensated import written_weight


@dataclass
class WeightScale:
    """Scales of a weight: t of the scale's shape, one for all columns of its block."""

    weight: Real
    scale: Real
    spec: QuantSpec
    t: Real = field(init=False)

    def __post_init__(self) -> None:
        self.t = np.zeros(self.scale.shape, np.float32)

    @classmethod
    def of(cls, node: ir.Node) -> "WeightScale":
        """Of a dequantizer."""
        codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
        assert codes is not None and scale is not None
        real = written_weight(node, codes, spec_of(node)).decode().reshape(codes.shape)
        return cls(real, np.asarray(scale, np.float32), spec_of(node))

    def real(self) -> Real:
        """The weight with the scales of now."""
        return self.weight * self._wide(np.exp(self.t))

    def slope(self, gradient: Real) -> Real:
        """By t, from the gradient by the weight."""
        by_code = (gradient * self.real()).reshape(len(self.weight), -1)
        if not self.scale.ndim:
            return np.asarray(by_code.sum(), np.float32)
        if self.scale.ndim == 1:
            return np.asarray(by_code.sum(1))
        starts = np.arange(0, by_code.shape[1], self._block)
        return np.asarray(np.add.reduceat(by_code, starts, 1))

    def scales(self) -> Real:
        """As they are stored."""
        return store_signed(self.scale * np.exp(self.t), self.spec.scale_format)

    @property
    def _block(self) -> int:
        return self.spec.block_size or max(self.weight[0].size, 1)

    def _wide(self, factor: Real) -> Real:
        rows = self.weight.shape[0]
        if factor.ndim < 2:
            return factor.reshape(-1, *[1] * (self.weight.ndim - 1))
        columns = np.repeat(factor, self._block, 1)[:, : self.weight[0].size]
        return columns.reshape(rows, *self.weight.shape[1:])


@dataclass
class Bias:
    """A bias; unit: root mean square of the sums that it is added to."""

    bias: Real
    unit: np.float32 = field(default_factory=lambda: np.float32(1))
    t: Real = field(init=False)

    def __post_init__(self) -> None:
        self.t = np.zeros(self.bias.shape, np.float32)

    def real(self) -> Real:
        """The bias of now."""
        return self.bias + self.unit * self.t

    def slope(self, gradient: Real) -> Real:
        """By t."""
        return gradient * self.unit


@dataclass
class ActivationScale:
    """One scale that values share, or those [T] that the time step chooses from."""

    scale: Real
    t: Real = field(init=False)

    def __post_init__(self) -> None:
        self.t = np.zeros(self.scale.shape, np.float32)

    def real(self) -> Real:
        """The scale of now."""
        return np.asarray(self.scale * np.exp(self.t), np.float32)

    def slope(self, gradient: Real) -> Real:
        """By t."""
        return np.asarray(gradient * self.real(), np.float32)


Tunable = WeightScale | Bias | ActivationScale
Stays = Callable[[str], NDArray | None]  # where the number of that name stays; None: nowhere


def tunables(tape: Tape) -> dict[str, Tunable]:
    """Every leaf with its number."""
    found: dict[str, Tunable] = {n: WeightScale.of(node) for n, node in tape.weights.items()}
    for name, value in tape.biases.items():
        found[name] = Bias(bias_of(value))
    for name, nodes in tape.scales.items():
        found[name] = ActivationScale(np.asarray(_table(nodes[0].inputs[1]), np.float32))
    return found


def bias_of(value: ir.Value) -> Real:
    """The float bias of an initializer, or of int32 codes; the mean of those of all time steps."""
    node = value.producer()
    if node is None:
        return np.asarray(constant(value), np.float32)
    codes, scale = _table(node.inputs[0]), _table(node.inputs[1])
    found = codes.astype(np.float64) * scale
    return np.asarray(found if found.ndim == 1 else found.mean(0), np.float32)


@dataclass
class Adam:
    """Adam (adam.py) on every t."""

    tunables: dict[str, Tunable]
    moments: dict[str, tuple[NDArray, NDArray]] = field(default_factory=dict)
    steps: int = 0

    def step(self, slopes: dict[str, Real], rate: float, stays: Stays = lambda _: None) -> None:
        """One step of that learning rate from slopes by every t; where it stays it keeps t."""
        self.steps += 1
        for name, slope in slopes.items():
            each = self.tunables[name]
            held = self.moments.get(name)
            moved, self.moments[name] = adam(slope, held, self.steps)
            frozen, old = stays(name), each.t
            each.t = (old - rate * moved).astype(np.float32)
            if frozen is not None:
                each.t = np.where(frozen, old, each.t)


def write(quantized: ir.Model, tape: Tape, found: dict[str, Tunable]) -> None:
    """The tuned numbers in a copy of the graph that the tape is of; other initializers stay.

    Biases in codes get the scale x_scale · w_scale (N7) of the new scales.
    """
    for name, node in tape.weights.items():
        each = found[name]
        assert isinstance(each, WeightScale)
        put(quantized, node.inputs[1], each.scales())
    for name, nodes in tape.scales.items():
        for node in nodes:
            put(quantized, node.inputs[1], found[name].real())
    for node in quantized.graph:
        codes = node.inputs[0] if is_op(node, "DequantizeLinear") else None
        if (
            codes is not None
            and (constant(codes) is not None or table_of_steps(codes) is not None)
            and "qcompile.spec" not in _notes(node)
        ):
            write_bias(quantized, node.outputs[0], found[node.outputs[0].name or ""].real())
    for name, value in tape.biases.items():
        if value.producer() is None:
            write_bias(quantized, value, found[name].real())


def write_bias(quantized: ir.Model, value: ir.Value, real: Real) -> None:
    """A bias in floats, or in codes of the scale x_scale · w_scale (N7) of its product."""
    node = value.producer()
    if node is None:
        put(quantized, value, real)
        return
    x_scale, w_scale = _scales_of_product(node)
    put(quantized, node.inputs[0], bias_codes(real, x_scale, w_scale))
    scale = np.asarray(x_scale, np.float64) * w_scale.astype(np.float64)
    put(quantized, node.inputs[1], scale.astype(np.float32))


def put(quantized: ir.Model, value: ir.Value | None, array: NDArray) -> None:
    """Another array in an initializer, or in the table that the value is a row of."""
    maker = None if value is None else value.producer()
    if maker is not None and table_of_steps(value) is not None:
        value = maker.inputs[0]
    assert value is not None
    held = quantized.graph.initializers[value.name or ""]
    held.const_value = ir.tensor(array, name=value.name)


def _table(value: ir.Value | None) -> NDArray:
    """A constant, or the table that the value is a row of."""
    table = table_of_steps(value)
    found = constant(value) if table is None else table.rows
    assert found is not None
    return found


def _notes(node: ir.Node) -> dict[str, str]:
    return node.outputs[0].metadata_props


def _scales_of_product(bias: ir.Node) -> tuple[NDArray, NDArray]:
    """Scales of x (one, [N] of a depthwise Conv, or [T, 1] by time step) and of w [N] of the
    product with the bias.
    """
    holder = next(iter(bias.outputs[0].uses())).node
    if is_op(holder, "Add"):
        other = holder.inputs[1 if holder.inputs[0] is bias.outputs[0] else 0]
        assert other is not None
        product = other.producer()
        assert product is not None
        holder = product
    x, w = (None if v is None else v.producer() for v in holder.inputs[:2])
    if is_op(w, "Transpose"):
        assert w is not None and w.inputs[0] is not None
        w = w.inputs[0].producer()
    assert x is not None and w is not None
    x_scale, w_scale = _table(x.inputs[1]), _table(w.inputs[1])
    if table_of_steps(x.inputs[1]) is not None:
        x_scale = x_scale[:, None]
    count = bias.outputs[0].shape
    assert count is not None
    return x_scale, np.broadcast_to(w_scale.reshape(-1), (int(count[0]),))  # type: ignore[arg-type]


def store_signed(scale: NDArray, scale_format: str) -> Real:
    """N6 for scales of either sign."""
    size = store_scale(np.abs(scale), scale_format)
    return np.asarray(np.copysign(size, scale), np.float32)
