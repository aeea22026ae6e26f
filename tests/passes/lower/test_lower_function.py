# SPDX-License-Identifier: Apache-2.0
"""Functions of one code become tables; so do changes of scale."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import constant
from qcompile.numerics.lut import reals_of_codes, table_of
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_function import LowerFunction
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.step_tables import table_of_steps
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

CONSTANTS = (
    "<float s = {0.5}, float t = {0.25}, uint8 p = {8}, uint8 q = {3}, float a = {0.3}, "
    "float lo = {-1}, float hi = {1.5}, float[1] v = {2}, float[3] w = {1, 2, 3}, "
    "uint8 low = {0}, uint8 high = {15}>"
)
BACK, FORTH = "x = DequantizeLinear (a_codes, s, p)", "y = QuantizeLinear (f, t, q)"
FUNCTIONS = {
    "LeakyRelu": ("f = LeakyRelu <alpha = 0.1> (x)", lambda x: np.where(x < 0, 0.1 * x, x)),
    "Clip": ("f = Clip (x, lo, hi)", lambda x: np.clip(x, -1, 1.5)),
    "Relu": ("f = Relu (x)", lambda x: np.maximum(x, 0)),
    "HardSwish": ("f = HardSwish (x)", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "HardSigmoid": ("f = HardSigmoid (x)", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "Sigmoid": ("f = Sigmoid (x)", lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": ("f = Tanh (x)", np.tanh),
    "Elu": ("f = Elu (x)", lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)) - 1, x)),
    "Softplus": ("f = Softplus (x)", lambda x: np.log1p(np.exp(x))),
    "Exp": ("f = Exp (x)", np.exp),
    "Neg": ("f = Neg (x)", np.negative),
    "Abs": ("f = Abs (x)", np.abs),
    "Sqrt": ("n = Abs (x)   f = Sqrt (n)", lambda x: np.sqrt(np.abs(x))),
    "Pow": ("f = Pow (x, v)", np.square),
    "Mul": ("f = Mul (v, x)", lambda x: 2 * x),
    "Add": ("f = Add (x, a)", lambda x: x + np.float32(0.3)),
    "Div": ("f = Div (x, v)", lambda x: x / 2),
    "Sub": ("f = Sub (a, x)", lambda x: np.float32(0.3) - x),
    "PRelu": ("f = PRelu (x, a)", lambda x: np.where(x < 0, np.float32(0.3) * x, x)),
    "SiLU": ("g = Sigmoid (x)   f = Mul (x, g)", lambda x: x / (1 + np.exp(-x))),
    "square": ("f = Mul (x, x)", np.square),
    "chain": ("g = Add (x, a)   h = Tanh (g)   f = Mul (h, v)", lambda x: 2 * np.tanh(x + 0.3)),
}


def net(body: str, outputs: str = "uint8[2,3] y", inputs: str = "uint8[2,3] a_codes") -> str:
    """A graph on codes."""
    return f"f ({inputs}) => ({outputs}) {CONSTANTS} {{ {body} }}"


@pytest.mark.parametrize(("body", "function"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_table(body: str, function) -> None:  # type: ignore[no-untyped-def]
    model = parse(net(f"{BACK}   {body}   {FORTH}"))
    assert LowerFunction()(model).modified
    RemoveUnused()(model)
    assert ops(model) == ["QLut"]
    reals = function(reals_of_codes(0.5, 8).astype(np.float64))
    table = constant(find(model, "QLut").inputs[1])
    # The exact function rounds to the same code but where its code lies within 1e-4 of a tie.
    exact = np.clip(np.minimum(reals, 1e6) / 0.25 + 3, 0, 255)
    assert (np.abs(table - exact) <= 0.5 + 1e-4).all()
    assert (np.abs(table.astype(int) + 1 - exact) > 0.5 + 1e-4).any()


def test_a_clip_of_the_codes_is_in_the_table() -> None:
    body = f"{BACK}   f = Neg (x)   w_codes = QuantizeLinear (f, t, q)"
    model = parse(net(f"{body}   y = Clip (w_codes, low, high)"))
    assert LowerFunction()(model).modified
    RemoveUnused()(model)
    table = constant(find(model, "QLut").inputs[1])
    np.testing.assert_array_equal(table, table_of(-reals_of_codes(0.5, 8), 0.25, 3, 0, 15))


def test_requantize_and_identity() -> None:
    model = parse(net(f"{BACK}   y = QuantizeLinear (x, t, q)"))
    assert LowerFunction()(model).modified
    table = constant(find(model, "QLut").inputs[1])
    np.testing.assert_array_equal(table, table_of(reals_of_codes(0.5, 8), 0.25, 3))
    assert_rewritten(
        LowerFunction(),
        net(f"{BACK}   c = QuantizeLinear (x, s, p)   y = Cast <to = 1> (c)", "float[2,3] y"),
        "f (uint8[2,3] a_codes) => (float[2,3] y) { y = Cast <to = 1> (a_codes) }",
    )


@pytest.mark.parametrize(
    "text",
    [
        net(f"{BACK}   f = Mul (x, w)   {FORTH}"),
        net(f"{BACK}   f = Softmax (x)   {FORTH}"),
        net(
            f"{BACK}   z = DequantizeLinear (b_codes, s, p)   f = Mul (x, z)   {FORTH}",
            inputs="uint8[2,3] a_codes, uint8[2,3] b_codes",
        ),
        net(f"f = Relu (x)   {FORTH}", inputs="float[2,3] x"),
    ],
    ids=["a row of numbers", "softmax", "two tensors", "floats"],
)
def test_left_alone(text: str) -> None:
    assert_left_alone(LowerFunction(), text)


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid (c)   m = Mul (c, s)",
        "s = HardSwish (c)   m = LeakyRelu (s)",
        "s = Clip (c, lo, hi)   n = Relu (c)   m = Add (s, n)",
    ],
)
def test_between_convs(body: str, preset: str) -> None:
    text = f"""f (float[b,4,6,6] x, float w, float u) => (float[b,4,6,6] y)
    <float lo = {{-0.4}}, float hi = {{0.3}}> {{ c = Conv (x, w)   {body}   y = Conv (m, u) }}"""
    model = with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1))
    found = staged(model, preset)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    clip = ["Clip"] * (preset == "w4a4")
    expected = ["QuantizeLinear", *clip, "Transpose", "QConv", "QLut", "QConv", "DequantizeLinear"]
    assert ops(lowered) == [*expected, "Transpose"]
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


def test_a_part_of_the_function_that_is_read_keeps_its_floats() -> None:
    text = """f (float[b,4,6,6] x, float w, float u) => (float[b,4,6,6] y, float[b,4,6,6] s)
    { c = Conv (x, w)   s = Sigmoid (c)   m = Mul (c, s)   y = Conv (m, u) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1)))
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert {"QLut", "Sigmoid"} <= set(ops(lowered))
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


def test_the_function_of_a_tensor_and_its_half_read_twice() -> None:
    """A function that another int8 op reads ends there; what follows starts from its codes."""
    text = """f (float[b,4,6,6] x, float w, float u) => (float[b,4,h,6] y)
    { c = Conv (x, w)   s = Sigmoid (c)   m = Mul (c, s)   k = Concat <axis = 2> (s, m)
      y = Conv (k, u) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1)))
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert "Mul" not in ops(lowered)
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


def test_types() -> None:
    model = parse(net(f"{BACK}   f = Tanh (x)   {FORTH}"))
    LowerFunction()(model)
    node = find(model, "QLut")
    assert node.outputs[0].dtype == ir.DataType.UINT8
    assert constant(node.inputs[1]).dtype == np.uint8


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
def test_tables_by_time_step(preset: str) -> None:
    """A table of every bucket, for the scales of both sides."""
    text = (
        "f (float[b,16] x, int64[b] t, float w, float u) => (float[b,8] y) "
        "{ h = MatMul (x, w)   g = Sigmoid (h)   s = Mul (h, g)   y = MatMul (s, u) }"
    )
    found = staged(with_weights(text, w=(16, 12), u=(12, 8)), preset, timestep_input="t")
    lowered = run_passes(found.quantized, *LOWER_CPU())
    held = table_of_steps(find(lowered, "QLut").inputs[1])
    before, after = (found.work.params(name) for name in ("h", "s"))
    assert held is not None and before.steps is not None and after.steps is not None
    for row, x_scale, y_scale in zip(held.rows, before.steps, after.steps, strict=True):
        reals = reals_of_codes(float(x_scale), before.zero_point).astype(np.float64)
        wanted = (reals / (1 + np.exp(-reals))).astype(np.float32)
        high = found.plan.activations["s"].format.code_max
        expected = table_of(wanted, float(y_scale), after.zero_point, 0, high)
        assert np.abs(row.astype(int) - expected).max() <= 1  # Sigmoid of ONNX Runtime is in f32
        assert (row != expected).mean() < 0.02
    assert_lowered(found.quantized, lowered, found.feed)
