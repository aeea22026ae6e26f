# SPDX-License-Identifier: Apache-2.0
"""Attention is a product, and MultiHeadAttention of its parts."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile.passes.normalise.split_attention import SplitAttention
from tests.passes.graphs import assert_left_alone, parse, run
from tests.passes.stages import with_weights

# Both graphs do the same sums in another order. A query, key or value is a sum of 8 products and
# at most 8 · 4 · 4 (|x| and |w| below 4), so it differs by that many units of 2^-23; a score
# passes the difference on times 16, and the softmax to a value, which is as large again.
LIMIT = 2 * 16 * 8 * (8 * 4 * 4) * 2.0**-23


def attention(attributes: str = "", operands: str = "x, w, b", more: str = "") -> str:
    return f"""f (float[2,5,8] x, float w, float b{more}) => (float[2,5,8] y)
    {{ y = com.microsoft.Attention <num_heads = 2{attributes}> ({operands}) }}"""


def filled(text: str, width: int = 24) -> ir.Model:
    return with_weights(text, w=(8, width), b=(width,))


def feed_of(**more: NDArray) -> dict[str, NDArray]:
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (2, 5, 8)).astype(np.float32)
    return {"x": x} | more


@pytest.mark.parametrize("attributes", ["", ", unidirectional = 1", ", scale = 0.25"])
@pytest.mark.parametrize("has_mask", [False, True])
def test_outputs(attributes: str, *, has_mask: bool) -> None:
    more = ", int32[2,5] m" if has_mask else ""
    text = attention(attributes, "x, w, b, m" if has_mask else "x, w, b", more)
    before, after = filled(text), filled(text)
    assert SplitAttention()(after).modified
    assert after.graph[-1].outputs[0].name == "y"
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    feed = feed_of(m=mask) if has_mask else feed_of()
    left, right = run(before, feed)[0], run(after, feed)[0]
    assert np.abs(left - right).max() <= LIMIT
    weight = after.graph.initializers["w"].const_value.numpy()
    weight[:, -8:] += 2.0**-4
    assert np.abs(left - run(after, feed)[0]).max() > LIMIT


def test_widths_may_differ() -> None:
    text = attention(", qkv_hidden_sizes = [8, 8, 4]").replace("float[2,5,8] y", "float[2,5,4] y")
    before, after = filled(text, 20), filled(text, 20)
    assert SplitAttention()(after).modified
    left, right = run(before, feed_of())[0], run(after, feed_of())[0]
    assert left.shape == right.shape == (2, 5, 4)
    assert np.abs(left - right).max() <= LIMIT


def test_a_bias_on_the_scores() -> None:
    text = attention("", "x, w, b, , , s", ", float[2,2,5,5] s")
    before, after = filled(text), filled(text)
    assert SplitAttention()(after).modified
    rng = np.random.default_rng(2)
    feed = feed_of(s=rng.uniform(-2, 2, (2, 2, 5, 5)).astype(np.float32))
    assert np.abs(run(before, feed)[0] - run(after, feed)[0]).max() <= LIMIT


def test_no_bias() -> None:
    """ONNX Runtime 1.31 ends the process there, so only the graph is looked at."""
    after = parse(constant("", "x, w, "))
    assert SplitAttention()(after).modified
    assert [n.op_type for n in after.graph] == ["MatMul", "Split", "MultiHeadAttention"]


ONES = ", ".join(["1"] * 24)
CONSTANT = f"float[4,6] w = {{{ONES}}}, float[6] b = {{1, 1, 1, 1, 1, 1}}"


def constant(inputs: str, operands: str, outputs: str = "y", attributes: str = "") -> str:
    return f"""f (float[2,3,4] x{inputs}) => (float[2,3,2] y) <{CONSTANT}>
    {{ {outputs} = com.microsoft.Attention <num_heads = 1{attributes}> ({operands}) }}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (attention(), "its weight is not constant"),
        (constant(", float[2,2,1,7,2] p", "x, w, b, , p"), "it reads the past"),
        (
            constant("", "x, w, b", "y, p").replace("y) <", "y, float[2,2,1,3,2] p) <"),
            "its present is read",
        ),
        (constant("", "x, w, b", "y", ", do_rotary = 1"), "it has rotary embeddings"),
        (constant(", int32[2] m", "x, w, b, m"), "its mask is not [batch, total length]"),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(SplitAttention(), text, reason)
