# SPDX-License-Identifier: Apache-2.0
"""Weights that come in codes keep them bit for bit, as rows [N, K]."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.passes.lower.qdq import weight_codes_of
from tests.passes.stages import staged, with_weights

RNG = np.random.default_rng(3)
CODES = RNG.integers(-127, 128, (4, 3))
SCALES = [0.5, 0.25, 0.125]


def listed(values) -> str:
    return "{" + ", ".join(str(v) for v in np.ravel(values)) + "}"


def net(op: str) -> str:
    return f"""f (float[b,4] x) => (float[b,3] y)
    <int8[4,3] w_codes = {listed(CODES)}, float[3] w_scale = {listed(SCALES)},
     float x_scale = {{0.0625}}, uint8 x_zero_point = {{128}}>
    {{ q = QuantizeLinear (x, x_scale, x_zero_point)
       d = DequantizeLinear (q, x_scale, x_zero_point)
       w = DequantizeLinear <axis = 1> (w_codes, w_scale)   y = {op} (d, w) }}"""


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_codes_are_kept(op: str) -> None:
    found = staged(with_weights(net(op)), None)
    node = next(n for n in found.quantized.graph if n.op_type in ("MatMul", "Gemm"))
    weight = weight_codes_of(node.inputs[1])
    assert weight is not None
    assert constant(weight.codes).tolist() == CODES.T.tolist()
    assert constant(weight.scale).tolist() == SCALES
    assert str(weight.spec) == "int8/axis(axis=0)/sym/f32"


def test_float_weights_are_left_alone() -> None:
    text = "f (float[b,4] x, float w) => (float[b,3] y) { y = MatMul (x, w) }"
    found = staged(with_weights(text, w=(4, 3)), "w8a16")
    names = {v.name for v in found.quantized.graph.initializers.values()}
    assert "w_nk_codes" in names and "w_codes" not in names
