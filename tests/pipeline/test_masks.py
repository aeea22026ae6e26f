# SPDX-License-Identifier: Apache-2.0
"""Constants that are no data, such as masks and the bounds of Clip, set no quantization range."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import constant
from tests.passes.stages import staged, with_weights

MASK = ", ".join(["0", "-1000000000"] * 8)
CAUSAL = ", ".join("0" if j <= i else "-1000000000" for i in range(4) for j in range(4))


def scales(model: ir.Model) -> list[float]:
    """The scales of the activations after transform with static ones."""
    graph = staged(model).quantized.graph
    return [float(np.max(constant(n.inputs[1]))) for n in graph if n.op_type == "QuantizeLinear"]


@pytest.mark.parametrize(
    "text",
    [
        f"""f (float[b,4,16] x, float q, float o) => (float[b,4,16] y) <float[16] k = {{{MASK}}}>
        {{ a = MatMul (x, q)   s = Add (a, k)   r = Softmax (s)   y = MatMul (r, o) }}""",
        f"""f (float[b,4,16] x, float q, float o) => (float[b,4,16] y) <float[1,16] k = {{{MASK}}}>
        {{ a = MatMul (x, q)   s = Add (k, a)   r = Softmax (s)   y = MatMul (r, o) }}""",
        f"""f (float[b,4,16] x, float q, float o) => (float[b,4,16] y)
        <float[1,4,4] k = {{{CAUSAL}}}>
        {{ a = MatMul (x, q)   t = Transpose <perm = [0, 2, 1]> (a)   p = MatMul (a, t)
           s = Add (p, k)   r = Softmax (s)   z = MatMul (r, a)   y = MatMul (z, o) }}""",
        """f (float[b,4,16] x, float q, float o, bool[4,16] k) => (float[b,4,16] y)
        <float never = {-3e38}>
        { a = MatMul (x, q)   s = Where (k, a, never)   r = Softmax (s)   y = MatMul (r, o) }""",
        """f (float[b,4,16] x, float q, float o) => (float[b,4,16] y)
        <float low = {-3e38}, float high = {3e38}>
        { a = MatMul (x, q)   s = Clip (a, low, high)   y = MatMul (s, o) }""",
        """f (float[b,4,16] x, float q, float o) => (float[b,4,16] y) <float high = {1e9}>
        { a = MatMul (x, q)   s = Min (a, high)   y = MatMul (s, o) }""",
    ],
    ids=["by output", "before the product", "causal", "Where", "Clip", "Min"],
)
def test_a_mask_sets_no_range(text: str) -> None:
    # Normal numbers times weights of norm 1 stay below 16, so no scale is above 32/255.
    found = scales(with_weights(text, q=(16, 16), o=(16, 16)))
    assert found
    assert max(found) < 32 / 255


def test_a_bias_sets_the_range() -> None:
    text = """f (float[b,4,16] x, float q, float o) => (float[b,4,16] y) <float[16] k = {0, 9000,
    0, 9000, 0, 9000, 0, 9000, 0, 9000, 0, 9000, 0, 9000, 0, 9000}>
    { a = MatMul (x, q)   s = Add (a, k)   y = MatMul (s, o) }"""
    assert max(scales(with_weights(text, q=(16, 16), o=(16, 16)))) > 9000 / 256
