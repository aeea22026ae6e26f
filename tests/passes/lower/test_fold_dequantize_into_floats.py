# SPDX-License-Identifier: Apache-2.0
"""Stored vectors behind DequantizeLinear become floats for the float ops that read them."""

import numpy as np
import pytest

from qcompile.passes.lower.fold_dequantize_into_floats import FoldDequantizeIntoFloats
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse, run
from tests.passes.stages import ops, run_passes

FORMS = {
    "uint8": "uint8[2] c = {3, 255}, float s = {0.3}, uint8 z = {7}",
    "int8": "int8[2] c = {-128, 127}, float s = {0.3}, int8 z = {-7}",
    "int32": "int32[2] c = {-2147483648, 16777217}, float s = {0.3}, int32 z = {0}",
    "an axis": "int8[2] c = {-128, 127}, float[2] s = {0.3, 0.7}, int8[2] z = {-7, 1}",
    "a number": "uint8 c = {3}, float s = {0.3}, uint8 z = {7}",
}
BODY = "b = DequantizeLinear <axis = 0> (c, s, z)   y = Add (x, b)"


@pytest.mark.parametrize("constants", FORMS.values(), ids=FORMS)
def test_the_floats_are_those_of_onnxruntime(constants: str) -> None:
    model = parse(f"f (float[2] x) => (float[2] y) <{constants}> {{ {BODY} }}")
    after = run_passes(model, FoldDequantizeIntoFloats())
    assert ops(after) == ["Add"]
    zeros = {"x": np.zeros(2, np.float32)}
    (wanted,), (found,) = run(model, zeros), run(after, zeros)
    assert np.array_equal(wanted, found)
    assert wanted.any()


def test_every_reader_gets_the_floats() -> None:
    assert_rewritten(
        FoldDequantizeIntoFloats(),
        """f (float[2] x) => (float[2] y) <uint8[2] c = {3, 5}, float s = {0.5}, uint8 z = {1}>
        { b = DequantizeLinear (c, s, z)   a = Add (x, b)   y = Mul (a, b) }""",
        """f (float[2] x) => (float[2] y) <float[2] b_float = {1, 2}>
        { a = Add (x, b_float)   y = Mul (a, b_float) }""",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "f (float[1,2] x) => (float[1,2] y) "
            f"<uint8[1,2] c = {{3, 5}}, float s = {{1}}, uint8 z = {{0}}> {{ {BODY} }}",
            "its codes are no vector",
        ),
        (
            "f (float[2] x, float s) => (float[2] y) <uint8[2] c = {3, 5}, uint8 z = {1}> "
            f"{{ {BODY} }}",
            "its scale is no float32 constant",
        ),
        (
            "f (float[2] x, uint8 z) => (float[2] y) <uint8[2] c = {3, 5}, float s = {1}> "
            f"{{ {BODY} }}",
            "its zero point is computed at run time",
        ),
        (
            "f (float[2] x, uint8[2] c) => (float[2] y) <float s = {1}, uint8 z = {1}> "
            f"{{ {BODY} }}",
            None,
        ),
        (
            "f (float[2] x) => (float[2] y, float[2] b) "
            f"<uint8[2] c = {{3, 5}}, float s = {{1}}, uint8 z = {{1}}> {{ {BODY} }}",
            None,
        ),
    ],
    ids=["matrix", "scale", "zero point", "activations", "output"],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldDequantizeIntoFloats(), text, reason)
