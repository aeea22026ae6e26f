# SPDX-License-Identifier: Apache-2.0
"""Keras LayerNormalization as tf2onnx writes it is one that ONNX Runtime fuses."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from qcompile.norms import Norm, norm_at
from qcompile.passes.normalise.fuse_moments_into_layer_norm import FuseMomentsIntoLayerNorm
from qcompile.passes.normalise.fuse_reciprocal_into_div import FuseReciprocalIntoDiv
from qcompile.passes.normalise.remove_unused import RemoveUnused
from tests.passes.graphs import assert_left_alone, parse, run

HEAD = """f (float[2,4] x) => (float[2,4] y)
<float e = {0.001}, float[4] g = {1, 2, 0.5, 1}, float[4] b = {1, 0, -1, 0}>"""
MOMENTS = """m = ReduceMean <axes = [-1]> (x)   d = Sub (x, m)   s = Mul (d, d)
v = ReduceMean <axes = [-1]> (s)   t = Add (v, e)   r = Sqrt (t)"""
REST = "h = Div (g, r)   p = Mul (x, h)   q = Mul (m, h)   u = Sub (b, q)   y = Add (p, u)"
RECIPROCAL = REST.replace("h = Div (g, r)", "i = Reciprocal (r)   h = Mul (i, g)")
TURNED = "h = Div (g, r)   p = Mul (h, x)   q = Mul (h, m)   u = Sub (b, q)   y = Add (u, p)"


@pytest.mark.parametrize("rest", [REST, RECIPROCAL, TURNED])
def test_keras(rest: str, tmp_path: Path) -> None:
    text = f"{HEAD} {{ {MOMENTS}   {rest} }}"
    before, after = parse(text), parse(text)
    for each in (FuseReciprocalIntoDiv(), FuseMomentsIntoLayerNorm(), RemoveUnused()):
        each(after)
    (norm,) = (n for n in map(norm_at, after.graph) if isinstance(n, Norm))
    assert (norm.source.name, norm.output.name, norm.is_centred) == ("x", "y", True)
    assert (norm.gamma.tolist(), norm.beta.tolist()) == ([1, 2, 0.5, 1], [1, 0, -1, 0])
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    left, right = run(before, feed)[0], run(after, feed)[0]
    # Nine operations on numbers of at most |x| · γ/σ, |μ| · γ/σ and β, on both sides.
    limit = 2 * 9 * 2.0**-24 * (2 * np.abs(feed["x"]).max() * 2 / feed["x"].std(-1).min() + 1)
    assert np.abs(left - right).max() <= limit
    assert np.abs(left + 2 * limit - right).max() > limit
    assert fused_by_onnx_runtime(after, tmp_path) == ["LayerNormalization"]
    assert "LayerNormalization" not in fused_by_onnx_runtime(before, tmp_path)


def fused_by_onnx_runtime(model: ir.Model, folder: Path) -> list[str]:
    """Op types after ONNX Runtime's optimiser."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "m.onnx")
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return [n.op_type for n in ir.load(folder / "m.onnx").graph]


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (REST.replace("Mul (m, h)", "Mul (v, h)"), "its mean is that of something else"),
        (
            REST.replace("Div (g, r)", "Div (g, o)").replace("h =", "o = Sqrt (x)   h =", 1),
            "its deviation is not that of moments",
        ),
        ("h = Div (g, r)   p = Mul (x, h)   y = Add (p, b)", None),
        ("u = Sub (b, m)   p = Mul (x, r)   y = Add (p, u)", None),
    ],
)
def test_left_alone(rest: str, reason: str | None) -> None:
    text = f"{HEAD} {{ {MOMENTS}   {rest} }}"
    assert_left_alone(FuseMomentsIntoLayerNorm(), text, reason)
