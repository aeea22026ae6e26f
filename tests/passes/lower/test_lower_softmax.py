# SPDX-License-Identifier: Apache-2.0
"""A Softmax of codes becomes QSoftmax."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.numerics.softmax import exp_table
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_softmax import LowerSoftmax
from tests.passes.graphs import assert_left_alone
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights


def test_between_products() -> None:
    text = """f (float[b,3,6] x, float w, float u) => (float[b,3,6] y)
    { p = MatMul (x, w)   n = Softmax (p)   y = MatMul (n, u) }"""
    found = staged(with_weights(text, w=(6, 6), u=(6, 6)), gives_floats=True)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert ops(lowered) == ["QuantizeLinear", "QMatMul", "QSoftmax", "QMatMul"]
    scale = found.work.params("p").scale
    np.testing.assert_array_equal(constant(find(lowered, "QSoftmax").inputs[1]), exp_table(scale))
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


def test_channels_of_maps() -> None:
    """As a detector's distribution over distances: no transpose inside."""
    text = """f (float[b,4,5,6] x, float w, float u) => (float[b,1,5,6] y)
    { p = Conv (x, w)   n = Softmax <axis = 1> (p)   y = Conv (n, u) }"""
    found = staged(with_weights(text, w=(8, 4, 1, 1), u=(1, 8, 1, 1)), gives_floats=True)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert ops(lowered) == [
        *("QuantizeLinear", "Transpose", "QConv", "QSoftmax", "QConv", "Transpose"),
    ]
    assert_lowered(found.quantized, lowered, found.feed, at_least=2)


def test_a_sure_answer_has_the_scale_of_1_in_255() -> None:
    text = """f (float[b,3,6] x, float w, float u) => (float[b,3,6] y)
    <float hot = {1000}> { p = MatMul (x, w)   q = Mul (p, hot)   n = Softmax (q)
      y = MatMul (n, u) }"""
    found = staged(with_weights(text, w=(6, 6), u=(6, 6)), gives_floats=True)
    params = found.work.params("n")
    assert (params.scale, params.zero_point) == (np.float32(1 / 255), 0)


def left(body: str, output: str) -> str:
    """A graph on codes."""
    return f"""f (uint8[2,3,6] a) => ({output}) <float s = {{0.5}}, uint8 z = {{8}}>
    {{ p = DequantizeLinear (a, s, z)   {body} }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (left("y = Softmax (p)", "float[2,3,6] y"), "its output does not become codes"),
        (
            left("n = Softmax <axis = 1> (p)   y = QuantizeLinear (n, s, z)", "uint8[2,3,6] y"),
            "Softmax: over axis 1",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(LowerSoftmax(), text, reason)
