# SPDX-License-Identifier: Apache-2.0
"""One scale in a vector is one scale."""

import pytest

from qcompile.passes.normalise.convert_quantizer_scales import ConvertQuantizerScales
from tests.passes.graphs import assert_left_alone, assert_rewritten


def test_dequantize_and_a_shared_scale() -> None:
    head = "f (float[2,3] x) => (float[2,3] y)"
    assert_rewritten(
        ConvertQuantizerScales(),
        f"""{head} <float[1] s = {{0.5}}, uint8[1] z = {{8}}>
        {{ c = QuantizeLinear (x, s, z)   y = DequantizeLinear (c, s, z) }}""",
        f"""{head} <float s_scalar = {{0.5}}, uint8 z_scalar = {{8}}>
        {{ c = QuantizeLinear (x, s_scalar, z_scalar)
           y = DequantizeLinear (c, s_scalar, z_scalar) }}""",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """f (float[1,2] x) => (float[1,2] y) <int8[1,2] w = {1, 2}, float[1] s = {0.5}>
            { d = DequantizeLinear <axis = 0> (w, s)   y = Add (x, d) }""",
            "it is a weight",
        ),
        (
            """f (float[2,3] x) => (uint8[2,3] y) <float s = {0.5}, uint8 z = {8}>
            { y = QuantizeLinear (x, s, z) }""",
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(ConvertQuantizerScales(), text, reason)
