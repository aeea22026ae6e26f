# SPDX-License-Identifier: Apache-2.0
"""Reading the QDQ graph: where codes come from, and where an output becomes codes again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.formats import FORMATS, Format
from qcompile.graph import DOMAIN, ROTATION, attribute, constant, input_of, is_op, only_consumer
from qcompile.numerics.hadamard import Hadamard
from qcompile.numerics.quantize import quantize
from qcompile.products import code_bounds, is_by_channel, is_relu
from qcompile.spec import QuantSpec
from qcompile.step_tables import StepTable, table_of_steps


@dataclass(frozen=True)
class Static:
    """Static codes uint8 with one scale; `back` is the node that dequantizes them.

    scales: float32 [C] where each channel has its own, which a depthwise Conv alone asks for.
    steps: the scales [T] that the time step chooses from; scale is then the largest.
    """

    codes: ir.Value
    scale: float
    zero_point: int
    back: ir.Node
    scales: NDArray[np.float32] | None = None
    steps: StepTable | None = None


@dataclass(frozen=True)
class Dynamic:
    """A float value that its product quantizes at run time."""

    source: ir.Value
    bits: int
    reach: float | None  # None: the largest code

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the product."""
        of_reach = {} if self.reach is None else {"activation_reach": self.reach}
        return {"activation": "dynamic", "activation_bits": self.bits, **of_reach}


@dataclass(frozen=True)
class Weight:
    """A weight's codes in its own shape, scales and zero points as initializers, and its spec.

    zero_point holds special values where the format has them, scale levels where it has a codebook.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    spec: QuantSpec


@dataclass(frozen=True)
class End:
    """Where an output becomes codes: their value, params, the codes allowed, the nodes passed.

    scales: float32 [N] where each channel has its own, which a Conv alone asks for.
    steps: as of Static.
    """

    codes: ir.Value
    scale: float
    zero_point: int
    y_min: int
    y_max: int
    passed: tuple[ir.Node, ...]
    scales: NDArray[np.float32] | None = None
    steps: StepTable | None = None


def static_of(
    value: ir.Value | None, *, by_channel: bool = False, by_step: bool = False
) -> Static | None:
    """The static codes that a value is dequantized from.

    by_channel: also those with a scale for each index of axis 1 and one zero point. by_step: also
    those whose scale the time step chooses.
    """
    back = value.producer() if value is not None else None
    if back is None or not is_op(back, "DequantizeLinear"):
        return None
    codes = back.inputs[0]
    if codes is None or codes.dtype != ir.DataType.UINT8 or constant(codes) is not None:
        return None
    scale, zero_point = constant(back.inputs[1]), constant(input_of(back, 2))
    steps = table_of_steps(back.inputs[1]) if by_step else None
    if steps is not None and zero_point is not None:
        return Static(codes, float(steps.rows.max()), int(zero_point), back, steps=steps)
    if scale is None or zero_point is None:
        return None
    if scale.size != 1:
        if not by_channel or not is_by_channel(back, scale, zero_point):
            return None
        return Static(codes, float(scale.max()), int(zero_point[0]), back, scale)
    return Static(codes, float(scale), int(zero_point), back)


def dynamic_of(value: ir.Value | None) -> Dynamic | None:
    """The float value behind a dynamic quantize–dequantize pair."""
    back = value.producer() if value is not None else None
    if back is None or not is_op(back, "Dequantize", domain=DOMAIN):
        return None
    forth = back.inputs[0].producer() if back.inputs[0] is not None else None
    if forth is None or not is_op(forth, "Quantize", domain=DOMAIN) or forth.inputs[0] is None:
        return None
    return Dynamic(forth.inputs[0], int(attribute(forth, "bits")), attribute(forth, "reach"))


def weight_codes_of(value: ir.Value | None) -> Weight | None:
    """The codes of a weight, through the Transpose of a MatMul."""
    back = value.producer() if value is not None else None
    if back is not None and is_op(back, "Transpose") and back.inputs[0] is not None:
        back = back.inputs[0].producer()
    if back is None or "qcompile.spec" not in back.outputs[0].metadata_props:
        return None
    if not is_op(back, "DequantizeLinear") and not is_op(back, "Dequantize", domain=DOMAIN):
        return None
    spec = QuantSpec.parse(back.outputs[0].metadata_props["qcompile.spec"])
    codes, scale = back.inputs[0], back.inputs[1]
    if codes is None or scale is None or codes.const_value is None:
        return None
    return Weight(codes, scale, input_of(back, 2), spec)


def end_of(value: ir.Value, *, by_channel: bool = False, by_step: bool = False) -> End | None:
    """The codes that the value becomes, through a Relu or Clip that only it feeds."""
    passed: list[ir.Node] = []
    bounds: tuple[float, float] = (-np.inf, np.inf)
    follower = only_consumer(value)
    if follower is not None and is_relu(follower):
        bounds = bounds_of(follower)
        passed.append(follower)
        follower = only_consumer(follower.outputs[0])
    if follower is None:
        return None
    return end_at(follower, bounds, passed, by_channel=by_channel, by_step=by_step)


def end_at(
    follower: ir.Node,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    before: Sequence[ir.Node] = (),
    *,
    by_channel: bool = False,
    by_step: bool = False,
) -> End | None:
    """The codes that a QuantizeLinear writes, of a value clamped to the bounds.

    by_channel: also those with a scale a channel, by_step: those whose scale the time step chooses;
    where the bounds are the same codes in all.
    """
    if not is_op(follower, "QuantizeLinear"):
        return None
    steps = table_of_steps(follower.inputs[1]) if by_step else None
    scale = constant(follower.inputs[1]) if steps is None else steps.rows
    zero_point = constant(input_of(follower, 2))
    if scale is None or zero_point is None or zero_point.dtype != np.uint8:
        return None
    if (
        steps is None
        and scale.size != 1
        and not (by_channel and is_by_channel(follower, scale, zero_point))
    ):
        return None
    point = int(zero_point.flat[0])
    passed = [*before, follower]
    codes, low, high = follower.outputs[0], 0, 255
    after = only_consumer(codes)
    if after is not None and is_op(after, "Clip") and (clamped := code_bounds(after)):
        low, high = clamped
        passed.append(after)
        codes = after.outputs[0]
    found = {codes_of_bounds(bounds, float(s), point, low, high) for s in np.unique(scale)}
    if len(found) > 1:
        return None
    scales = None if scale.size == 1 or steps is not None else scale
    return End(codes, float(scale.max()), point, *found.pop(), tuple(passed), scales, steps)


def rotation_of(node: ir.Node | None) -> Hadamard | None:
    """Which rotation at run time the node is a part of (online_rotation.py)."""
    text = None if node is None else node.metadata_props.get(ROTATION)
    return None if text is None else Hadamard(**json.loads(text))


def rotated_value(last: ir.Node) -> ir.Value:
    """What the rotation that ends with a node is of."""
    node, own = last, last.metadata_props[ROTATION]
    while True:
        before = next(v for v in node.inputs if v is not None and v.const_value is None)
        producer = before.producer()
        if producer is None or producer.metadata_props.get(ROTATION) != own:
            return before
        node = producer


def bounds_of(node: ir.Node) -> tuple[float, float]:
    """What Relu or Clip clamps to."""
    if is_op(node, "Relu"):
        return 0.0, np.inf
    low, high = constant(input_of(node, 1)), constant(input_of(node, 2))
    return (-np.inf if low is None else float(low), np.inf if high is None else float(high))


def codes_of_bounds(
    bounds: tuple[float, float], scale: float, zero_point: int, low: int, high: int
) -> tuple[int, int]:
    """Clamping before quantizing is clamping the codes, because quantizing is monotone (N2)."""
    uint8: Format = FORMATS["uint8"]
    codes = quantize(np.array(bounds, np.float32), scale, zero_point, uint8, symmetric=False)
    y_min, y_max = (min(max(int(code), low), high) for code in codes)
    return y_min, y_max
