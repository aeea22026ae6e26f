# SPDX-License-Identifier: Apache-2.0
"""int8 activations become uint8, with the same numbers."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.passes.normalise.move_signed_codes_to_unsigned import MoveSignedCodesToUnsigned
from tests.passes.graphs import assert_left_alone, parse, run

X = np.array([-200, -64.5, -64, -1, 0, 0.25, 63, 63.5, 100], np.float32)


@pytest.mark.parametrize(
    ("constants", "text"),
    [
        ("int8 z = {-5}", "c = QuantizeLinear (x, s, z)   y = DequantizeLinear (c, s, z)"),
        (
            "int8 z = {0}, int8 low = {-7}, int8 high = {7}",
            """c = QuantizeLinear (x, s, z)   d = Clip (c, low, high)
            y = DequantizeLinear (d, s, z)""",
        ),
        (
            "int8 z = {0}, int8 high = {7}",
            """c = QuantizeLinear (x, s, z)   d = Clip (c, , high)
            y = DequantizeLinear (d, s, z)""",
        ),
        ("int8 z = {0}", "c = QuantizeLinear (x, s, z)   y = DequantizeLinear (c, s)"),
        ("uint8 z = {0}", "c = QuantizeLinear (x, s)   y = DequantizeLinear (c, s)"),
    ],
)
def test_numbers_stay(constants: str, text: str) -> None:
    text = f"f (float[9] x) => (float[9] y) <float s = {{0.5}}, {constants}> {{ {text} }}"
    after = parse(text)
    assert MoveSignedCodesToUnsigned()(after).modified
    quantizer = next(n for n in after.graph if n.op_type == "QuantizeLinear")
    assert quantizer.outputs[0].dtype == ir.DataType.UINT8
    assert quantizer.inputs[2] is not None
    assert np.array_equal(run(parse(text), {"x": X})[0], run(after, {"x": X})[0])


@pytest.mark.parametrize(
    ("head", "text", "reason"),
    [
        ("(int8[9] c)", "c = QuantizeLinear (x, s, z)", "its codes are a graph output"),
        ("(int32[9] y)", "c = QuantizeLinear (x, s, z)   y = Cast <to = 6> (c)", "Cast reads"),
    ],
)
def test_left_alone(head: str, text: str, reason: str) -> None:
    text = f"f (float[9] x) => {head} <float s = {{0.5}}, int8 z = {{1}}> {{ {text} }}"
    full = "Cast reads its codes" if reason == "Cast reads" else reason
    assert_left_alone(MoveSignedCodesToUnsigned(), text, full)
