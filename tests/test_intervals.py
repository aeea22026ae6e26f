# SPDX-License-Identifier: Apache-2.0
"""An op's interval holds what the op gives of any inputs, and its ends are reached."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.intervals import Interval, by_rule
from tests.passes.graphs import parse, run

# Text of the op of x [1,3,4,4] (and z of the same shape), and whether its ends are reached.
OPS = {
    "add": ("Add (x, z)", True),
    "sum of three": ("Sum (x, z, x)", True),
    "least of three": ("Min (x, z, four)", True),
    "subtract": ("Sub (x, z)", True),
    "multiply": ("Mul (x, z)", True),
    "least": ("Min (x, z)", True),
    "greatest": ("Max (x, z)", True),
    "divide": ("Div (x, four)", True),
    "join": ("Concat <axis = 1> (x, z)", True),
    "join rows": ("Concat <axis = 2> (x, z)", True),
    "largest": ("MaxPool <kernel_shape = [2,2]> (x)", True),
    "mean": ("AveragePool <kernel_shape = [2,2]> (x)", True),
    "padded mean": (
        "AveragePool <kernel_shape = [3,3], pads = [2,2,2,2], count_include_pad = 1> (x)",
        True,
    ),
    "whole mean": ("GlobalAveragePool (x)", True),
    "sums": ("ReduceMean <axes = [2,3]> (x)", True),
    "mean of channels": ("ReduceMean <axes = [1]> (x)", False),
    "turn": ("Transpose <perm = [0,2,3,1]> (x)", True),
    "flat": ("Flatten (x)", True),
    "pad": ("Pad (x, pads)", True),
    "larger": ('Resize <mode = "linear"> (x, none, twice)', True),
    "squashed": ("Sigmoid (x)", False),
    "share": ("Softmax <axis = 1> (x)", False),
    "clipped": ("Clip (x, low, high)", True),
}
CONSTANTS = """<float four = {-4}, float low = {-1}, float high = {1.5}, float none = {0},
int64[8] pads = {0,0,1,1,0,0,1,1}, float[4] twice = {1,1,2,2}>"""
LOW, HIGH = np.array([-3.0, 1.0, -2.0]), np.array([-1.0, 4.0, 3.0])


def node_of(text: str) -> ir.Model:
    return parse(
        f"""f (float[1,3,4,4] x, float[1,3,4,4] z) => (float y) {CONSTANTS}
        {{ y = {text.replace(", none,", ", ,")} }}"""
    )


def interval_of(model: ir.Model, known: Interval) -> Interval | None:
    node = next(iter(model.graph))
    parts = []
    for value in node.inputs:
        array = None if value is None or value.const_value is None else value.const_value.numpy()
        is_data = value is not None and array is None
        number = None if array is None or array.dtype.kind != "f" else array
        parts.append(
            known
            if is_data
            else None
            if number is None
            else Interval.of(number.min(), number.max())
        )
    return by_rule(node, parts)


@pytest.mark.parametrize("name", OPS)
def test_all_values_are_inside_and_the_ends_are_reached(name: str) -> None:
    text, is_tight = OPS[name]
    model, rng = node_of(text), np.random.default_rng(0)
    found = interval_of(model, Interval(LOW, HIGH))
    assert found is not None
    ends = np.stack([LOW, HIGH]).astype(np.float32)
    least, greatest = np.inf, -np.inf
    for i in range(64):
        pick = (
            rng.random((2, 3, 4, 4))
            if i % 2
            else rng.integers(0, 2, (2, 3, 1, 1)) + np.zeros((4, 4))
        )
        x = (ends[0][:, None, None] + pick * (ends[1] - ends[0])[:, None, None]).astype(np.float32)
        (y,) = run(model, {"x": x[:1], "z": x[1:]})
        shape = (1, -1, *[1] * (y.ndim - 2))
        low = found.low.reshape(shape) if len(found.low) > 1 else found.low
        high = found.high.reshape(shape) if len(found.high) > 1 else found.high
        # one f32 rounding an op, of means 48 of them
        slack = 48 * 2.0**-23 * np.abs([*found.low, *found.high]).max()
        assert (y >= low - slack).all() and (y <= high + slack).all()
        least, greatest = min(least, float(y.min())), max(greatest, float(y.max()))
    reached = found.whole
    gap = max(least - reached.low[0], reached.high[0] - greatest)
    assert (gap <= 2.0**-16) == is_tight


def test_channels_stay_apart() -> None:
    found = interval_of(node_of("Add (x, z)"), Interval(LOW, HIGH))
    assert found is not None
    assert found.low.tolist() == [-6, 2, -4] and found.high.tolist() == [-2, 8, 6]


def test_channels_on_another_axis_are_taken_together() -> None:
    model = parse(
        """f (float[3,4,4] x) => (float[2,3,4,4] y) <float[2,1,1,1] c = {0, 1}>
        { y = Add (x, c) }"""
    )
    node = next(iter(model.graph))
    found = by_rule(node, [Interval(np.zeros(4), np.arange(4.0)), Interval.of(0, 1)])
    assert found is not None
    assert (found.low.tolist(), found.high.tolist()) == ([0.0], [4.0])


@pytest.mark.parametrize(
    "text",
    [
        "Div (x, z)",  # z may be 0
        'Resize <mode = "cubic"> (x, none, twice)',  # which overshoots
        "Exp (x)",  # no rule: a function, which is looked at on a grid
        "Pow (x, four)",
    ],
)
def test_what_has_no_rule(text: str) -> None:
    assert interval_of(node_of(text), Interval(LOW, HIGH)) is None


def test_codes_say_their_range() -> None:
    model = parse(
        """f (uint8[1,2] x) => (float[1,2] y) <float s = {0.5}, uint8 p = {10}>
        { y = DequantizeLinear (x, s, p) }"""
    )
    found = by_rule(next(iter(model.graph)), [None, None, None])
    assert found is not None
    assert (found.low.tolist(), found.high.tolist()) == ([-5.0], [122.5])
