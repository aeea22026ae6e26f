# SPDX-License-Identifier: Apache-2.0
"""Add, Sub and Mul of two quantized tensors become QAdd and QMul."""

import numpy as np
import pytest

from qcompile.graph import attribute, constant
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_add import LowerAdd
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

CONSTANTS = (
    "<float s = {0.5}, float t = {0.25}, float u = {1}, uint8 p = {8}, uint8 q = {3}, "
    "float lo = {0}, float hi = {6}>"
)
BACK = "x = DequantizeLinear (a, s, p)   z = DequantizeLinear (b, t, q)"


def net(text: str, outputs: str = "uint8[2,3] y") -> str:
    """A graph on codes a and b."""
    return f"f (uint8[2,3] a, uint8[2,3] b) => ({outputs}) {CONSTANTS} {{ {text} }}"


def expected(y_min: int, y_max: int, inputs: str = "a, b") -> str:
    """QAdd with the multipliers of the scales 0.5, 0.25 and 1."""
    b = (0.25, 3) if inputs == "a, b" else (0.5, 8)
    return f"""f (uint8[2,3] a, uint8[2,3] b) => (uint8[2,3] y)
    {{ y = com.qcompile.QAdd <a_multiplier = 0.5, b_multiplier = {b[0]}, a_zero_point = 8,
       b_zero_point = {b[1]}, y_zero_point = 3, y_min = {y_min}, y_max = {y_max}> ({inputs}) }}"""


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (f"{BACK}   c = Add (x, z)   y = QuantizeLinear (c, u, q)", expected(0, 255)),
        (f"{BACK}   c = Add (x, z) r = Relu (c)  y = QuantizeLinear (r, u, q)", expected(3, 255)),
        (
            f"{BACK}   c = Add (x, z) r = Clip (c, lo, hi)  y = QuantizeLinear (r, u, q)",
            expected(3, 9),
        ),
        (f"{BACK}   c = Add (x, x)   y = QuantizeLinear (c, u, q)", expected(0, 255, "a, a")),
    ],
    ids=["plain", "relu", "clip", "twice"],
)
def test_lowered(text: str, after: str) -> None:
    assert_rewritten(LowerAdd(), net(text), after, is_runnable=False)


@pytest.mark.parametrize(
    ("text", "outputs", "reason"),
    [
        (f"{BACK} y = Add (x, z)", "float[2,3] y", "its output does not become codes"),
        (
            f"{BACK} c = Add (x, z)   r = Sigmoid (c)   y = QuantizeLinear (r, u, q)",
            "uint8[2,3] y",
            "its output does not become codes",
        ),
        (
            f"{BACK} c = Add (x, z)   y = QuantizeLinear (c, u, q)",
            "uint8[2,3] y, float[2,3] c",
            "its output does not become codes",
        ),
        (
            "x = DequantizeLinear (a, s, p)   c = Add (x, s)   y = QuantizeLinear (c, u, q)",
            "uint8[2,3] y",
            "one of its inputs is not quantized",
        ),
        ("c = Add (s, t)   y = QuantizeLinear (c, u, q)", "uint8 y", None),
    ],
    ids=["float output", "sigmoid", "two readers", "float input", "floats"],
)
def test_left_alone(text: str, outputs: str, reason: str | None) -> None:
    assert_left_alone(LowerAdd(), net(text, outputs), reason)


def test_difference_and_product() -> None:
    text = net(f"{BACK}   c = Sub (x, z)   y = QuantizeLinear (c, u, q)")
    after = expected(0, 255).replace("b_multiplier = 0.25", "b_multiplier = -0.25")
    assert_rewritten(LowerAdd(), text, after, is_runnable=False)
    text = net(f"{BACK}   c = Mul (x, z) r = Clip (c, lo, hi)  y = QuantizeLinear (r, u, q)")
    after = """f (uint8[2,3] a, uint8[2,3] b) => (uint8[2,3] y)
    { y = com.qcompile.QMul <multiplier = 0.125, a_zero_point = 8, b_zero_point = 3,
      y_zero_point = 3, y_min = 3, y_max = 9> (a, b) }"""
    assert_rewritten(LowerAdd(), text, after, is_runnable=False)


@pytest.mark.parametrize(
    ("codes", "stored", "point", "b_zero_point"),
    [
        ("uint8[3] c = {1, 2, 255}, uint8 z = {3}", [1, 2, 255], ", z", 3),
        ("int8[3] c = {-128, 2, 127}, int8 z = {-5}", [0, 130, 255], ", z", 123),
        ("int8[3] c = {-128, 2, 127}", [0, 130, 255], "", 128),
        ("uint8[3] c = {1, 2, 255}", [1, 2, 255], "", 0),
    ],
    ids=["unsigned", "signed", "signed without a zero point", "without a zero point"],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_stored_codes(
    codes: str, stored: list[int], point: str, b_zero_point: int, is_first: bool
) -> None:
    join = "Add (v, x)" if is_first else "Add (x, v)"
    text = f"""f (uint8[2,3] a) => (uint8[2,3] y) {CONSTANTS[:-1]}, {codes}>
    {{ x = DequantizeLinear (a, s, p)   v = DequantizeLinear (c, t{point})   r = {join}
       y = QuantizeLinear (r, u, q) }}"""
    quantized = parse(text)
    lowered = run_passes(quantized, *LOWER_CPU())
    add = find(lowered, "QAdd")
    constants = [constant(v) for v in add.inputs]
    assert [c is None for c in constants] == [not is_first, is_first]
    found = next(c for c in constants if c is not None)
    assert found.dtype == np.uint8 and found.tolist() == stored
    side = "a" if is_first else "b"
    assert attribute(add, f"{side}_zero_point") == b_zero_point
    feed = {"a": np.array([[0, 8, 9], [17, 100, 255]], np.uint8)}
    assert_lowered(quantized, lowered, feed, at_least=1)
    assert ops(lowered) == ["QAdd"]


@pytest.mark.parametrize(
    "codes",
    ["int32[3] c = {1, 2, 3}, int32 z = {0}", "uint8[1] c = {3}, uint8 z = {0}"],
    ids=["bias codes", "one number"],
)
def test_codes_that_are_left(codes: str) -> None:
    text = f"""f (uint8[2,3] a) => (uint8[2,3] y) {CONSTANTS[:-1]}, {codes}>
    {{ x = DequantizeLinear (a, s, p)   v = DequantizeLinear (c, t, z)   r = Add (x, v)
       y = QuantizeLinear (r, u, q) }}"""
    assert_left_alone(LowerAdd(), text, "one of its inputs is not quantized")


GATES = {
    "gate": ("g = GlobalAveragePool (c)   s = Sigmoid (g)", "Mul (c, s)", "QMul"),
    "gate first": ("s = ReduceMean <axes = [2, 3]> (c)", "Mul (s, c)", "QMul"),
    "centred": ("s = GlobalAveragePool (c)", "Sub (c, s)", "QAdd"),
    "rows": ("g = Conv (x, u)   s = MaxPool <kernel_shape = [6,1]> (g)", "Add (c, s)", "QAdd"),
}


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
@pytest.mark.parametrize(("body", "join", "op_type"), GATES.values(), ids=GATES)
def test_broadcast(body: str, join: str, op_type: str, preset: str) -> None:
    text = f"""f (float[b,4,6,6] x, float w, float u) => (float[b,4,6,6] y)
    {{ c = Conv (x, w)   {body}   m = {join}   y = Conv (m, u) }}"""
    for seed in (0, 1, 2):
        found = staged(with_weights(text, seed, w=(4, 4, 1, 1), u=(4, 4, 1, 1)), preset)
        lowered = run_passes(found.quantized, *LOWER_CPU())
        assert op_type in ops(lowered)
        assert ops(lowered).count("Transpose") == 2
        assert_lowered(found.quantized, lowered, found.feed, at_least=4)


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
@pytest.mark.parametrize("add", ["Add (c, r)", "Add (r, c)"])
def test_residual_block(preset: str, add: str) -> None:
    text = f"""f (float[b,4,6,6] x, float w, float u, float k) => (float[b,4,6,6] y)
    {{ p = Conv <pads = [1,1,1,1]> (x, w, k)   r = Relu (p)
       c = Conv <pads = [1,1,1,1]> (r, u, k)   a = {add}   y = Relu (a) }}"""
    for seed in (0, 1, 2):
        shapes = {"w": (4, 4, 3, 3), "u": (4, 4, 3, 3), "k": (4,)}
        found = staged(with_weights(text, seed, **shapes), preset)
        lowered = run_passes(found.quantized, *LOWER_CPU())
        clip = ["Clip"] * (preset == "w4a4")
        assert ops(lowered) == [
            *("QuantizeLinear", *clip, "Transpose", "QConv", "QConv", "QAdd"),
            *("DequantizeLinear", "Transpose"),
        ]
        assert attribute(find(lowered, "QAdd"), "y_max") == (15 if clip else 255)
        assert_lowered(found.quantized, lowered, found.feed, at_least=4)
