# SPDX-License-Identifier: Apache-2.0
"""x · (1 / y) is x / y, and RMSNorm as torch writes it is one that ONNX Runtime fuses."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qcompile.passes.normalise.fuse_reciprocal_into_div import FuseReciprocalIntoDiv
from tests.passes.graphs import assert_left_alone, parse, run

RMS = """f (float[2,8] x) => (float[2,8] y)
<float two = {2}, float e = {1e-5}, float[8] g = {1, 2, 3, 4, 5, 6, 7, 8}>
{ p = Pow (x, two)   v = ReduceMean <axes = [-1]> (p)   a = Add (v, e)   q = Sqrt (a)
  r = Reciprocal (q)   n = Mul (ORDER)   y = Mul (n, g) }"""
ONE = ("r = Reciprocal (q)", "r = Div (one, q)")


@pytest.mark.parametrize("order", ["x, r", "r, x"])
@pytest.mark.parametrize("is_division", [False, True])
def test_rms_norm(order: str, *, is_division: bool) -> None:
    text = RMS.replace("ORDER", order)
    divided = text.replace(*ONE).replace("float two", "float one = {1}, float two")
    before, after = (parse(divided if is_division else text) for _ in range(2))
    assert FuseReciprocalIntoDiv()(after).modified
    assert [n.op_type for n in after.graph][-2:] == ["Div", "Mul"]
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    left, right = run(before, feed)[0], run(after, feed)[0]
    # Two roundings become one; each is half a unit of the result.
    limit = 2 * 2.0**-24 * np.abs(left) + 2.0**-24 * np.abs(left)
    assert (np.abs(left - right) <= limit).all()
    assert (np.abs(left * (1 + 2.0**-20) - right) > limit).any()


def test_onnx_runtime_knows_the_result(tmp_path: Path) -> None:
    model = parse(RMS.replace("ORDER", "x, r"))
    FuseReciprocalIntoDiv()(model)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    fused = ir.load(tmp_path / "m.onnx")
    assert [n.op_type for n in fused.graph] == ["SimplifiedLayerNormalization"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """f (float[2] x, float[2] d) => (float[2] y, float[2] z)
            { r = Reciprocal (d)   y = Mul (x, r)   z = Neg (r) }""",
            "r has another reader",
        ),
        (
            """f (int64[2] x, int64[2] d) => (int64[2] y) <int64 one = {1}>
            { r = Div (one, d)   y = Mul (x, r) }""",
            "its type is no float",
        ),
        (
            """f (float[2] x, float[2] d) => (float[2] y) <float two = {2}>
            { r = Div (two, d)   y = Mul (x, r) }""",
            None,
        ),
        (
            """f (float[2] x, float[2] d) => (float[1,2] y) <float[1,1] one = {1}>
            { r = Div (one, d)   y = Mul (x, r) }""",
            None,
        ),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FuseReciprocalIntoDiv(), text, reason)
