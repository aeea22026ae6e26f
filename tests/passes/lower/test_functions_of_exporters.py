# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - a graph reads best in one line
"""Every exporter's spelling of an activation is ONE table between two products."""

import pytest

from qcompile.passes import LOWER_CPU
from tests.passes.stages import Staged, assert_lowered, ops, run_passes, staged, with_weights

NUMBERS = {
    **{"half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6, "zero": 0, "sixth": 1 / 6},
    **{"fifth": 0.2, "root2": 2**0.5, "rcp": 0.5**0.5, "c": 0.044715, "k": 0.7978846},
    **{"quick": 1.702, "cube": 3, "slope": 0.1},
}
CONSTANTS = ", ".join(f"float {name} = {{{value}}}" for name, value in NUMBERS.items())
CONSTANTS += ", float[1] slope1 = {0.25}, float[1,1,1] slope3 = {0.25}"
TANH = "e = Mul (d, c)   f = Add (p, e)   g = Mul (f, k)   h = Tanh (g)   i = Add (h, one)"
TANH_ENDS = {
    "torch": f"d = Pow (p, cube)   {TANH}   j = Mul (p, half)   n = Mul (j, i)",
    "torch, dynamo": f"a = Mul (p, p)   d = Mul (a, p)   {TANH}   j = Mul (p, half)   n = Mul (j, i)",
    "tf2onnx": f"d = Pow (p, cube)   {TANH}   j = Mul (i, half)   n = Mul (p, j)",
    "Paddle": f"d = Pow (p, cube)   {TANH}   j = Mul (p, i)   n = Mul (j, half)",
}
FORMS = {
    **{f"GELU with Tanh, {name}": body for name, body in TANH_ENDS.items()},
    "GELU, torch": "d = Div (p, root2)   e = Erf (d)   f = Add (e, one)   g = Mul (p, f)   n = Mul (g, half)",
    "GELU, tf2onnx": "d = Mul (p, rcp)   e = Erf (d)   f = Add (one, e)   g = Mul (f, half)   n = Mul (p, g)",
    "GELU, Paddle": "d = Div (p, root2)   e = Erf (d)   f = Add (e, one)   g = Mul (p, half)   n = Mul (g, f)",
    "GELU, ONNX Runtime": "n = com.microsoft.Gelu (p)",
    "FastGelu": "n = com.microsoft.FastGelu (p)",
    "QuickGelu": "n = com.microsoft.QuickGelu <alpha = 1.702> (p)",
    "quick GELU, torch": "d = Mul (p, quick)   e = Sigmoid (d)   n = Mul (p, e)",
    "SiLU": "d = Sigmoid (p)   n = Mul (p, d)",
    "SiLU, tf2onnx": "d = Sigmoid (p)   n = Mul (d, p)",
    "HardSwish": "n = HardSwish (p)",
    "HardSwish, torch before opset 14": "d = HardSigmoid <alpha = 0.1666666> (p)   n = Mul (p, d)",
    "HardSwish, torch decomposed": "d = Add (p, three)   e = Clip (d, zero, six)   f = Mul (p, e)   n = Div (f, six)",
    "HardSwish, dynamo": "d = Add (p, three)   e = Max (d, zero)   f = Min (e, six)   g = Mul (p, f)   n = Div (g, six)",
    "HardSwish, tf2onnx": "d = Add (p, three)   e = Relu (d)   f = Min (e, six)   g = Mul (f, sixth)   n = Mul (p, g)",
    "HardSwish, Paddle": "d = Add (p, three)   e = Clip (d, zero, six)   f = Div (e, six)   n = Mul (p, f)",
    "HardSigmoid": "n = HardSigmoid (p)",
    "Mish": "d = Softplus (p)   e = Tanh (d)   n = Mul (p, e)",
    "ELU": "n = Elu (p)",
    "SELU": "n = Selu (p)",
    "CELU": "n = Celu (p)",
    "LeakyRelu": "n = LeakyRelu (p)",
    "LeakyRelu, TFLite": "d = Mul (p, slope)   n = Max (p, d)",
    "PRelu of one slope": "n = PRelu (p, slope1)",
    "PRelu of one slope for maps": "n = PRelu (p, slope3)",
    "Sigmoid": "n = Sigmoid (p)",
    "Tanh": "n = Tanh (p)",
    "Softplus": "n = Softplus (p)",
    "Softsign": "n = Softsign (p)",
    "log of the sigmoid": "d = Sigmoid (p)   n = Log (d)",
    "x - tanh x": "d = Tanh (p)   n = Sub (p, d)",
    "Shrink": "n = Shrink <lambd = 0.5, bias = 0.5> (p)",
    "sin": "n = Sin (p)",
    "ThresholdedRelu": "n = ThresholdedRelu (p)",
}  # fmt: skip
CLAMPS = {
    "HardSigmoid, torch decomposed": "d = Add (p, three)   e = Clip (d, zero, six)   n = Div (e, six)",
    "HardSigmoid, tf2onnx": "d = Mul (p, fifth)   e = Add (d, half)   n = Clip (e, zero, one)",
    "Relu": "n = Relu (p)",
    "Clip": "n = Clip (p, zero, six)",
    "Relu6, tf2onnx": "d = Relu (p)   n = Min (d, six)",
    "Relu6, dynamo": "d = Max (p, zero)   n = Min (d, six)",
}
NEWER = {"Mish": ("n = Mish (p)", 18), "Gelu": ('n = Gelu <approximate = "tanh"> (p)', 20)}


def lowered(body: str, opset: int = 17) -> tuple[Staged, list[str]]:
    text = f"""f (float[b,4,3,3] x, float w, float u, float v) => (float[b,4,3,3] y) <{CONSTANTS}>
    {{ p = Conv (x, w, v)   {body}   y = Conv (n, u) }}"""
    model = with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1), v=(4,))
    model.graph.opset_imports[""] = opset
    found = staged(model, gives_floats=True)
    assert found.plan.reasons == {}
    made = run_passes(found.quantized, *LOWER_CPU())
    if "Gelu" not in body:  # onnx.reference has no such op
        assert_lowered(found.quantized, made, found.feed, at_least=2)
    return found, ops(made)


HEAD, TAIL = ["QuantizeLinear", "Transpose", "QConv"], ["QConv", "Transpose"]


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_one_table(body: str) -> None:
    assert lowered(body)[1] == [*HEAD, "QLut", *TAIL]


@pytest.mark.parametrize(("body", "opset"), NEWER.values(), ids=NEWER)
def test_one_table_of_a_newer_opset(body: str, opset: int) -> None:
    assert lowered(body, opset)[1] == [*HEAD, "QLut", *TAIL]


@pytest.mark.parametrize("body", CLAMPS.values(), ids=CLAMPS)
def test_clamps_are_in_the_product(body: str) -> None:
    """What is left of a clamp that does not fuse at once is one table."""
    found = lowered(body)[1]
    assert [o for o in found if o != "QLut"] == [*HEAD, *TAIL]
    assert found.count("QLut") <= 1
