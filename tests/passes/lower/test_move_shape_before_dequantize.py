# SPDX-License-Identifier: Apache-2.0
"""Shape reads codes."""

import pytest

from qcompile.passes.lower.move_shape_before_dequantize import MoveShapeBeforeDequantize
from tests.passes.graphs import assert_left_alone, assert_rewritten

CONSTANTS = "<float s = {0.5}, uint8 p = {8}>"


@pytest.mark.parametrize(("op", "output"), [("Shape", "int64[2] y"), ("Size", "int64 y")])
def test_moved(op: str, output: str) -> None:
    assert_rewritten(
        MoveShapeBeforeDequantize(),
        f"""f (uint8[2,3] a) => ({output}) {CONSTANTS}
        {{ x = DequantizeLinear (a, s, p)   y = {op} (x) }}""",
        f"f (uint8[2,3] a) => ({output}) {{ y = {op} (a) }}",
    )


@pytest.mark.parametrize(
    "body", ["y = Shape (a)", "x = Cast <to = 1> (a)   y = Shape (x)"], ids=["codes", "a float"]
)
def test_left_alone(body: str) -> None:
    text = f"f (uint8[2,3] a) => (int64[2] y) {CONSTANTS} {{ {body} }}"
    assert_left_alone(MoveShapeBeforeDequantize(), text)
