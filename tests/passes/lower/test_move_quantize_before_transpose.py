# SPDX-License-Identifier: Apache-2.0
"""A graph output whose transpose is quantized stays what the model says it is."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qcompile.passes.lower.move_quantize_before_transpose import MoveQuantizeBeforeTranspose
from tests.passes.graphs import assert_left_alone, assert_rewritten, parse

CONSTANTS = (
    "<float s = {0.5}, uint8 p = {8}, float[3] s3 = {1, 2, 3}, uint8[3] p3 = {1, 2, 3}, "
    "int64[2] flat = {1, -1}, int64[1] i = {0}, int64[1] j = {1}>"
)
TURN = "Transpose <perm = [0,2,1]>"
ENDS = "q = QuantizeLinear (r, s, p)   y = DequantizeLinear (q, s, p)"
OF_CHANNELS = (
    "q = QuantizeLinear <axis = 1> (t, s3, p3)   y = DequantizeLinear <axis = 1> (q, s3, p3)"
)
BETWEEN = (
    "Reshape (t, flat)",
    "Unsqueeze (t, i)",
    "Squeeze (t, i)",
    "Slice (t, i, j, i)",
    "MaxPool <kernel_shape = [2]> (t)",
    "Identity (t)",
)


def net(body: str, outputs: str = "float[1,2,3] a, float[u] y") -> str:
    """A graph on x."""
    return f"f (float[1,2,3] x) => ({outputs}) {CONSTANTS} {{ {body} }}"


def test_moved() -> None:
    assert_rewritten(
        MoveQuantizeBeforeTranspose(),
        net(
            f"a = Neg (x)   t = {TURN} (a)   q = QuantizeLinear (t, s, p)",
            "float[1,2,3] a, uint8[1,3,2] q",
        ),
        f"""f (float[1,2,3] x) => (float[1,2,3] a, uint8[1,3,2] q) <float s = {{0.5}},
        uint8 p = {{8}}>
        {{ a = Neg (x)   a_codes = QuantizeLinear (a, s, p)   q = {TURN} (a_codes) }}""",
    )


@pytest.mark.parametrize("end", [*(f"r = {op}   {ENDS}" for op in BETWEEN), OF_CHANNELS])
def test_ort_gives_the_output_as_it_is(end: str) -> None:
    """Twin: without the pass ONNX Runtime gives codes times their scale."""
    text = net(f"a = Neg (x)   t = {TURN} (a)   {end}")
    x = np.linspace(-1.2, 1.4, 6, dtype=np.float32).reshape(1, 2, 3)
    model = parse(text)
    assert MoveQuantizeBeforeTranspose()(model).modified
    before, after = outputs(parse(text), x), outputs(model, x)
    plain = outputs(parse(text), x, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert np.array_equal(after[0], -x)
    assert np.array_equal(after[1], plain[1])
    assert not np.array_equal(before[0], -x)


def outputs(
    model: ir.Model,
    x: np.ndarray,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> list[np.ndarray]:
    """What ONNX Runtime gives."""
    model.graph.outputs[1].shape = None
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


CHANNELS = "scales of channels do not move past Identity"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            net(
                f"a = Neg (x)   t = {TURN} (a)   k = Identity (t)   "
                "q = QuantizeLinear <axis = 1> (k, s3, p3)",
                "float[1,2,3] a, uint8[1,3,2] q",
            ),
            CHANNELS,
        ),
        (
            net(
                f"a = Neg (x)   b = Abs (a)   t = {TURN} (a)   q = QuantizeLinear (t, s, p)",
                "float[1,2,3] a, float[1,2,3] b, uint8[1,3,2] q",
            ),
            None,
        ),
        (
            net(
                f"a = Neg (x)   t = {TURN} (a)   b = Abs (t)   q = QuantizeLinear (t, s, p)",
                "float[1,2,3] a, float[1,3,2] b, uint8[1,3,2] q",
            ),
            None,
        ),
        (
            net(f"a = Neg (x)   t = {TURN} (a)   q = QuantizeLinear (t, s, p)", "uint8[1,3,2] q"),
            None,
        ),
        (net("a = Neg (x)   q = QuantizeLinear (a, s, p)", "float[1,2,3] a, uint8[1,2,3] q"), None),
    ],
    ids=["channels", "a reader of the source", "a reader", "no output", "no transpose"],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(MoveQuantizeBeforeTranspose(), text, reason)
