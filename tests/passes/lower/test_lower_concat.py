# SPDX-License-Identifier: Apache-2.0
"""Concat of quantized tensors becomes Concat of codes."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.numerics.lut import reals_of_codes, table_of
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_concat import LowerConcat
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

CONSTANTS = "<float s = {0.5}, float t = {0.25}, uint8 p = {8}, uint8 q = {3}>"
BACK = "x = DequantizeLinear (a, s, p)   z = DequantizeLinear (b, t, q)"


def net(body: str, output: str = "uint8[2,7] y") -> str:
    """A graph on codes a and b."""
    return f"f (uint8[2,3] a, uint8[2,4] b) => ({output}) {CONSTANTS} {{ {body} }}"


def test_equal_scales_are_copied() -> None:
    text = net(
        "x = DequantizeLinear (a, s, p)   z = DequantizeLinear (b, s, p)   "
        "c = Concat <axis = -1> (x, z, x)   y = QuantizeLinear (c, s, p)",
        "uint8[2,10] y",
    )
    after = """f (uint8[2,3] a, uint8[2,4] b) => (uint8[2,10] y)
    { y = Concat <axis = -1> (a, b, a) }"""
    assert_rewritten(LowerConcat(), text, after)


def test_another_scale_is_requantized() -> None:
    model = parse(net(f"{BACK}   c = Concat <axis = 1> (x, z)   y = QuantizeLinear (c, s, p)"))
    assert LowerConcat()(model).modified
    RemoveUnused()(model)
    assert ops(model) == ["QLut", "Concat"]
    lut, concat = model.graph
    assert [v.name for v in concat.inputs] == ["a", lut.outputs[0].name]
    expected = table_of(reals_of_codes(0.25, 3), 0.5, 8)
    np.testing.assert_array_equal(constant(lut.inputs[1]), expected)


@pytest.mark.parametrize(
    ("body", "output", "reason"),
    [
        (
            f"{BACK}   y = Concat <axis = 1> (x, z)",
            "float[2,7] y",
            "its output does not become codes",
        ),
        (
            f"{BACK}   n = Cast <to = 1> (b)   c = Concat <axis = 1> (x, n)   "
            "y = QuantizeLinear (c, s, p)",
            "uint8[2,7] y",
            "one of its inputs is not quantized",
        ),
        ("y = Concat <axis = 1> (a, b)", "uint8[2,7] y", None),
    ],
    ids=["float output", "float input", "codes already"],
)
def test_left_alone(body: str, output: str, reason: str | None) -> None:
    assert_left_alone(LowerConcat(), net(body, output), reason)


def fire(axis: int, extra: str = "") -> str:
    """Two convolutions that a Concat joins."""
    return f"""f (float[b,4,6,6] x, float w, float u, float v) => (float[b,4,h,k] y{extra})
    {{ c = Conv (x, w)   a = Conv (c, u)   d = Conv (c, v)   e = Relu (d)
       m = Concat <axis = {axis}> (a, e)   y = Conv (m, {"z" if axis == 1 else "w"}) }}"""


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
@pytest.mark.parametrize("axis", [2, 3, -2])
def test_what_only_the_concat_reads_has_its_scale(axis: int, preset: str) -> None:
    shapes = dict.fromkeys("wuv", (4, 4, 1, 1))
    found = staged(with_weights(fire(axis), **shapes), preset)
    assert {found.plan.leaders[name] for name in ("a", "e", "m")} == {"m"}
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert "QLut" not in ops(lowered)
    assert ops(lowered).count("Transpose") == 2
    assert_lowered(found.quantized, lowered, found.feed, at_least=4)


def test_what_others_read_too_keeps_its_scale() -> None:
    text = """f (float[b,4,6,6] x, float w, float u) => (float[b,8,6,6] y, float[b,4,6,6] z)
    { c = Conv (x, w)   d = Conv (c, u)   m = Concat <axis = 1> (d, c)   y = Conv (m, t)
      z = Conv (d, w) }"""
    text = text.replace("float u)", "float u, float t)")
    shapes = {"w": (4, 4, 1, 1), "u": (4, 4, 1, 1), "t": (8, 8, 1, 1)}
    found = staged(with_weights(text, **shapes))
    assert found.plan.leaders["d"] == "d"
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert 1 <= ops(lowered).count("QLut") <= 2
    assert_lowered(found.quantized, lowered, found.feed, at_least=4)
    assert find(lowered, "Concat").attributes["axis"].value == 3
