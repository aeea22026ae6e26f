# SPDX-License-Identifier: Apache-2.0
"""Intervals of a graph's values: what an op can give where its inputs lie in theirs.

Ops without a rule give None. A constant is an interval, too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.graph import attribute, constant, input_of, is_constant, is_op, rank
from qcompile.int8_ops import MOVES_DATA, reduced_axes

KEEPS_CHANNELS = (
    *("Identity", "MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool", "Resize"),
)
BOUNDED = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Softsign", "Erf", "Sin", "Cos"), (-1.0, 1.0)),
}


@dataclass(frozen=True)
class Interval:
    """low, high: float64 [C] for the channels of axis 1, or [1] for all of a tensor."""

    low: NDArray
    high: NDArray

    @classmethod
    def of(cls, low: float, high: float) -> "Interval":
        """One for all channels."""
        return cls(np.array([low], np.float64), np.array([high], np.float64))

    @property
    def whole(self) -> "Interval":
        """Of all channels together."""
        return Interval.of(self.low.min(), self.high.max())

    def with_zero(self) -> "Interval":
        """With the padding."""
        return Interval(np.minimum(self.low, 0), np.maximum(self.high, 0))


def by_rule(node: ir.Node, parts: list[Interval | None]) -> Interval | None:
    """What the node gives; parts: the intervals of its inputs."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _ARITHMETIC:
        known = [part for part in parts if part is not None]
        return _folded(node, known) if parts and len(known) == len(parts) else None
    if is_op(node, "Concat"):
        return _joined(node, parts)
    if is_op(node, "DequantizeLinear"):
        return _decoded(node)
    first = parts[0] if parts else None
    return _bounded(node) if first is None else _moved(node, first) or _bounded(node)


def _folded(node: ir.Node, parts: list[Interval]) -> Interval | None:
    """One after the other: of two, or of the many that Sum, Min and Max take."""
    first, *others = _aligned(node, parts)
    found: Interval | None = first
    for part in others:
        found = None if found is None else _ARITHMETIC[node.op_type](found, part)
    return found


def _aligned(node: ir.Node, parts: list[Interval]) -> list[Interval]:
    """By channel where all inputs have their channels on the same axis, else of the whole."""
    ranks = {rank(v) or 0 for v in node.inputs if not is_constant(v)}
    widest = max((rank(v) or 0 for v in node.inputs), default=0)
    sizes = {len(part.low) for part in parts} - {1}
    if len(sizes) < 2 and ranks == {widest}:  # a constant has no more axes than the data
        return parts
    return [part.whole for part in parts]


def _product(a: Interval, b: Interval) -> Interval:
    every = np.array(np.broadcast_arrays(*(x * y for x in _ends(a) for y in _ends(b))))
    return Interval(every.min(axis=0), every.max(axis=0))


def _ends(a: Interval) -> tuple[NDArray, NDArray]:
    return a.low, a.high


def _quotient(a: Interval, b: Interval) -> Interval | None:
    if not ((b.low > 0) | (b.high < 0)).all():
        return None
    return _product(a, Interval(1 / b.high, 1 / b.low))


_ARITHMETIC: dict[str, Callable[[Interval, Interval], Interval | None]] = {
    **dict.fromkeys(("Add", "Sum"), lambda a, b: Interval(a.low + b.low, a.high + b.high)),
    "Sub": lambda a, b: Interval(a.low - b.high, a.high - b.low),
    "Mul": _product,
    "Div": _quotient,
    "Min": lambda a, b: Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high)),
    "Max": lambda a, b: Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high)),
}


def _joined(node: ir.Node, parts: list[Interval | None]) -> Interval | None:
    """Of a Concat: by channel where it joins channels of known number."""
    found = [p for p in parts if p is not None]
    if len(found) < len(parts):
        return None
    shapes = [[] if v is None or v.shape is None else list(v.shape) for v in node.inputs]
    counts = [s[1] for s in shapes if len(s) > 1 and isinstance(s[1], int)]
    if attribute(node, "axis") == 1 and len(counts) == len(found):
        pairs = list(zip(found, counts, strict=True))
        lows = [np.broadcast_to(p.low, count) for p, count in pairs]
        return Interval(
            np.concatenate(lows), np.concatenate([np.broadcast_to(p.high, c) for p, c in pairs])
        )
    whole = [p.whole for p in found]
    return Interval.of(min(w.low[0] for w in whole), max(w.high[0] for w in whole))


def _decoded(node: ir.Node) -> Interval | None:
    """What codes of one scale can stand for."""
    scale, point, codes = constant(node.inputs[1]), constant(input_of(node, 2)), node.inputs[0]
    if scale is None or scale.size != 1 or codes is None or codes.dtype is None:
        return None
    if codes.dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
        return None
    limits, zero = np.iinfo(codes.dtype.numpy()), 0 if point is None else int(point.ravel()[0])
    step = float(scale.ravel()[0])
    return Interval.of(step * (limits.min - zero), step * (limits.max - zero))


def _moved(node: ir.Node, found: Interval) -> Interval | None:
    """Of ops whose outputs are values of their input, or means of them."""
    if is_op(node, "Resize") and attribute(node, "mode", "nearest") == "cubic":
        return None
    extrapolates = attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if is_op(node, "Pad") or (is_op(node, "Resize") and extrapolates):
        fill = constant(input_of(node, 2)) if is_op(node, "Pad") else None
        is_zero = input_of(node, 2) is None or (fill is not None and not fill.any())
        return found.whole.with_zero() if is_op(node, "Pad") and is_zero else None
    if is_op(node, "AveragePool"):
        return found.with_zero() if attribute(node, "count_include_pad", 0) else found
    if is_op(node, *KEEPS_CHANNELS):
        return found
    if is_op(node, "ReduceMean", "ReduceMax", "ReduceMin"):
        return found if 1 not in (reduced_axes(node) or [1]) else found.whole
    return found.whole if is_op(node, *MOVES_DATA, "Cast", "Dropout") else None


def _bounded(node: ir.Node) -> Interval | None:
    """Of functions that have bounds whatever they read."""
    if is_op(node, *BOUNDED):
        return Interval.of(*BOUNDED[node.op_type])
    low, high = constant(input_of(node, 1)), constant(input_of(node, 2))
    if is_op(node, "Clip") and low is not None and high is not None and low.size == high.size == 1:
        return Interval.of(float(low.ravel()[0]), float(high.ravel()[0]))
    return None
