# SPDX-License-Identifier: Apache-2.0
"""Split of a quantized tensor becomes Split of its codes."""

import pytest

from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_split import LowerSplit
from tests.passes.graphs import assert_left_alone, assert_rewritten
from tests.passes.stages import assert_lowered, ops, run_passes, staged, with_weights

CONSTANTS = "<float s = {0.5}, float t = {0.25}, uint8 p = {8}, int64[2] sizes = {1, 2}>"
BACK = "x = DequantizeLinear (a, s, p)"


def net(body: str, outputs: str) -> str:
    """A graph on codes a."""
    return f"f (uint8[2,3] a) => ({outputs}) {CONSTANTS} {{ {body} }}"


def test_both_outputs_are_codes() -> None:
    text = net(
        f"{BACK}   c, d = Split <axis = 1> (x, sizes)   y = QuantizeLinear (c, s, p)   "
        "z = QuantizeLinear (d, s, p)",
        "uint8[2,1] y, uint8[2,2] z",
    )
    after = """f (uint8[2,3] a) => (uint8[2,1] y, uint8[2,2] z)
    <int64[2] sizes = {1, 2}> { y, z = Split <axis = 1> (a, sizes) }"""
    assert_rewritten(LowerSplit(), text, after)


def test_a_float_output_is_dequantized() -> None:
    text = net(
        f"{BACK}   c, d = Split <axis = 1> (x, sizes)   y = QuantizeLinear (c, s, p)   z = Neg (d)",
        "uint8[2,1] y, float[2,2] z",
    )
    after = """f (uint8[2,3] a) => (uint8[2,1] y, float[2,2] z)
    <int64[2] sizes = {1, 2}, float s = {0.5}, uint8 p = {8}>
    { y, d_codes = Split <axis = 1> (a, sizes)   d = DequantizeLinear (d_codes, s, p)
      z = Neg (d) }"""
    assert_rewritten(LowerSplit(), text, after)


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            f"{BACK}   y, z = Split <axis = 1> (x, sizes)",
            "float[2,1] y, float[2,2] z",
            "none of its outputs becomes codes",
        ),
        (
            f"{BACK}   c, z = Split <axis = 1> (x, sizes)   y = QuantizeLinear (c, t, p)",
            "uint8[2,1] y, float[2,2] z",
            "an output has another scale than its input",
        ),
        (
            f"{BACK}   c, z = Split <axis = 1> (x, sizes)   r = Relu (c)   "
            "y = QuantizeLinear (r, s, p)",
            "uint8[2,1] y, float[2,2] z",
            "an op stands between it and its codes",
        ),
        ("y, z = Split <axis = 1> (a, sizes)", "uint8[2,1] y, uint8[2,2] z", None),
    ],
    ids=["float outputs", "another scale", "relu", "codes already"],
)
def test_left_alone(body: str, outputs: str, reason: str | None) -> None:
    assert_left_alone(LowerSplit(), net(body, outputs), reason)


@pytest.mark.parametrize("gives_floats", [False, True])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_between_convs(axis: int, gives_floats: bool) -> None:
    text = f"""f (float[b,4,6,6] x, float w, float u) => (float[b,n,h,k] y, float[b,m,i,j] z)
    {{ c = Conv (x, w)   d, e = Split <axis = {axis}> (c)   y = Conv (d, u)   z = Neg (e) }}"""
    u = (4, 2 if axis == 1 else 4, 1, 1)
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=u), gives_floats=gives_floats)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert ops(lowered).count("Split") == 1
    assert_lowered(found.quantized, lowered, found.feed, at_least=2)
