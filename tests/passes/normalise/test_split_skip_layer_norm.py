# SPDX-License-Identifier: Apache-2.0
"""The sum of a residual and its normalisation are two ops again."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.passes.normalise.split_skip_layer_norm import SplitSkipLayerNorm
from tests.passes.graphs import HEADER, assert_left_alone, parse, run

CONSTANTS = "<float[4] g = {1, 2, 0.5, 1}, float[4] b = {0, 1, 0, 2}, float[4] k = {1, 2, 3, 4}>"
# Sums of 4 numbers of at most 12, in f32, by two kernels; the result is at most 2 · 1.8 + 2.
LIMIT = 16 * 2.0**-23 * 8


def net(op: str, operands: str, outputs: str = "y", more: str = "") -> str:
    return f"""f (float[2,3,4] x, float[2,3,4] z) => (float[2,3,4] y{more}) {CONSTANTS}
    {{ {outputs} = com.microsoft.{op} <epsilon = 0.5> (x, z, {operands}) }}"""


SUMS = ", float[2,3,4] s"


@pytest.mark.parametrize(
    ("op", "operands", "outputs", "more", "types"),
    [
        ("SkipLayerNormalization", "g, b, k", "y", "", ["Add", "Add", "LayerNormalization"]),
        ("SkipLayerNormalization", "g", "y", "", ["Add", "LayerNormalization"]),
        ("SkipLayerNormalization", "g, b", "y, m, d, s", SUMS, ["Add", "LayerNormalization"]),
        (
            "SkipSimplifiedLayerNormalization",
            "g, k",
            "y",
            "",
            ["Add", "Add", "SimplifiedLayerNormalization"],
        ),
        (
            "SkipSimplifiedLayerNormalization",
            "g",
            "y, , , s",
            SUMS,
            ["Add", "SimplifiedLayerNormalization"],
        ),
    ],
)
def test_split(op: str, operands: str, outputs: str, more: str, types: list[str]) -> None:
    text = net(op, operands, outputs, more)
    before, after = parse(text), parse(text)
    assert SplitSkipLayerNorm()(after).modified
    assert [n.op_type for n in after.graph] == types
    rng = np.random.default_rng(0)
    feed = {n: rng.integers(-4, 5, (2, 3, 4)).astype(np.float32) for n in "xz"}
    for left, right in zip(run(before, feed), run(after, feed), strict=True):
        assert np.abs(left - right).max() <= LIMIT
    after.graph.initializers["g"].const_value = ir.tensor(np.float32([1, 2, 0.5, 2]), name="g")
    assert np.abs(run(before, feed)[0] - run(after, feed)[0]).max() > LIMIT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            HEADER.replace("17", "15") + net("SkipLayerNormalization", "g"),
            "opset 17 has the first LayerNormalization",
        ),
        (
            net("SkipLayerNormalization", "g, b", "y, m", ", float[2,3,1] m"),
            "its mean or its deviation is read",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(SplitSkipLayerNorm(), text, reason)
