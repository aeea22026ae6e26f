# SPDX-License-Identifier: Apache-2.0
"""LayerNormalization and RMSNorm of codes, the ops and exporters' chains, become QLayerNorm."""

import numpy as np
import pytest

from qcompile.graph import attribute, constant
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_layer_norm import LowerLayerNorm
from tests.passes.graphs import assert_left_alone
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

CONSTANTS = """<float two = {2}, float e = {0.001}, int64[1] last = {-1},
 float[6] g = {1, 0.5, -1, 2, 1.5, 0.25}, float[6] h = {0, 1, -1, 0.5, 0, 2},
 float[6,1,1] gc = {1, 0.5, -1, 2, 1.5, 0.25}, float[6,1,1] hc = {0, 1, -1, 0.5, 0, 2}>"""
MOMENTS = """m = ReduceMean <axes = [-1]> (p)   d = Sub (p, m)   s = Pow (d, two)
 v = ReduceMean <axes = [-1]> (s)   t = Add (v, e)   r = Sqrt (t)   q = Div (d, r)"""
SQUARES = """s = Mul (p, p)   v = ReduceMean <axes = [-1]> (s)   t = Add (e, v)   r = Sqrt (t)
 q = Div (p, r)"""
FORMS = {
    "op": ("n = LayerNormalization <epsilon = 0.001> (p, g, h)", "layer"),
    "op without beta": ("n = LayerNormalization <axis = 2> (p, g)", "layer"),
    "moments (torch before opset 17, Paddle)": (
        f"{MOMENTS}   a = Mul (q, g)   n = Add (a, h)",
        "layer",
    ),
    "moments, turned round": (f"{MOMENTS}   a = Mul (g, q)   n = Add (h, a)", "layer"),
    "moments alone": (MOMENTS.replace("q =", "n ="), "layer"),
    "rms": (f"{SQUARES}   n = Mul (g, q)", "rms"),
    "rms, reciprocal (torch)": (
        SQUARES.replace("q = Div (p, r)", "i = Reciprocal (r)   q = Mul (p, i)   n = Mul (q, g)"),
        "rms",
    ),
    "rms of ONNX Runtime": ("n = SimplifiedLayerNormalization <epsilon = 0.001> (p, g)", "rms"),
    "with a ReLU behind": ("l = LayerNormalization (p, g, h)   n = Relu (l)", "layer"),
}


def net(body: str) -> str:
    """Between two products [6, 6]."""
    return f"""f (float[b,3,6] x, float w, float u) => (float[b,3,6] y) {CONSTANTS}
    {{ p = MatMul (x, w)   {body}   y = MatMul (n, u) }}"""


@pytest.mark.parametrize(("body", "mode"), FORMS.values(), ids=FORMS)
def test_between_products(body: str, mode: str) -> None:
    found = staged(with_weights(net(body), w=(6, 6), u=(6, 6)), gives_floats=True)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert ops(lowered) == ["QuantizeLinear", "QMatMul", "QLayerNorm", "QMatMul"]
    node = find(lowered, "QLayerNorm")
    assert attribute(node, "mode") == mode
    epsilon = 1e-5 if "epsilon" not in body and "e)" not in body and "(e" not in body else 1e-3
    scale = found.work.params("p").scale
    assert attribute(node, "epsilon") == np.float32(np.float32(epsilon).astype(float) / scale**2)
    if "Simplified" not in body:  # onnx.reference has no such op
        assert_lowered(found.quantized, lowered, found.feed, at_least=3)


def test_weights_are_in_codes_of_the_output() -> None:
    found = staged(with_weights(net(FORMS["op"][0]), w=(6, 6), u=(6, 6)), gives_floats=True)
    node = find(run_passes(found.quantized, *LOWER_CPU()), "QLayerNorm")
    scale = found.work.params("n").scale
    gamma, beta = constant(node.inputs[1]), constant(node.inputs[2])
    np.testing.assert_array_equal(gamma, np.float32(np.array([1, 0.5, -1, 2, 1.5, 0.25]) / scale))
    np.testing.assert_array_equal(beta, np.float32(np.array([0, 1, -1, 0.5, 0, 2]) / scale))


@pytest.mark.parametrize("is_first", [False, True])
def test_channels_of_maps(is_first: bool) -> None:
    """As ConvNeXt writes it: over the channels first, or between transposes."""
    body = MOMENTS.replace("[-1]", "[1]") + "   a = Mul (q, gc)   n = Add (a, hc)"
    if not is_first:
        body = """t = Transpose <perm = [0,2,3,1]> (p)   l = LayerNormalization (t, g, h)
        n = Transpose <perm = [0,3,1,2]> (l)"""
    text = f"""f (float[b,6,4,5] x, float w, float u) => (float[b,6,4,5] y) {CONSTANTS}
    {{ p = Conv (x, w)   {body}   y = Conv (n, u) }}"""
    found = staged(with_weights(text, w=(6, 6, 1, 1), u=(6, 6, 1, 1)), gives_floats=True)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert ops(lowered) == [
        *("QuantizeLinear", "Transpose", "QConv", "QLayerNorm", "QConv"),
        "Transpose",
    ]
    assert_lowered(found.quantized, lowered, found.feed, at_least=2)


def left(body: str, output: str) -> str:
    """A graph on codes."""
    return f"""f (uint8[2,3,6] a, float[6] c) => ({output}) <float s = {{0.5}}, uint8 z = {{8}},
    float[3,6] wide = {{{", ".join(["1"] * 18)}}}, {CONSTANTS[1:]}
    {{ p = DequantizeLinear (a, s, z)   {body} }}"""


FORTH = "y = QuantizeLinear (n, s, z)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            left("y = LayerNormalization (p, g)", "float[2,3,6] y"),
            "its output does not become codes",
        ),
        (
            left(f"n = LayerNormalization <axis = 1> (p, wide)   {FORTH}", "uint8[2,3,6] y"),
            "LayerNormalization: over the axes from 1 on, not the last alone",
        ),
        (
            left(f"n = LayerNormalization (p, c)   {FORTH}", "uint8[2,3,6] y"),
            "LayerNormalization: its weights are no constants of one size",
        ),
        (
            left(f"n, m = LayerNormalization (p, g)   {FORTH}", "uint8[2,3,6] y, float[2,3,1] m"),
            "LayerNormalization: its mean or its deviation is read",
        ),
        (left(f"n = Div (p, c)   {FORTH}", "uint8[2,3,6] y"), None),
    ],
    ids=["float output", "two axes", "computed", "mean", "division"],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(LowerLayerNorm(), text, reason)
