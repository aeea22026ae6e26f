# SPDX-License-Identifier: Apache-2.0
"""Integer products of activations quantized at run time become marked float products."""

import numpy as np
import pytest

from qcompile.imported import ACTIVATION, DYNAMIC
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.normalise.split_dynamic_product import SplitDynamicProduct
from tests.passes.graphs import assert_left_alone, parse, run

W = "uint8[2,1] w = {3, 9}, float ws = {0.5}, uint8 wz = {4}"
HEAD = f"f (float[1,2] x) => (float[1,1] y) <{W}>"
M = "com.microsoft"


@pytest.mark.parametrize(
    "text",
    [
        """{ q, s, z = DynamicQuantizeLinear (x)   i = MatMulInteger (q, w, z, wz)
        c = Cast <to = 1> (i)   t = Mul (s, ws)   y = Mul (c, t) }""",
        f"{{ y = {M}.DynamicQuantizeMatMul (x, w, ws, wz) }}",
        f"""{{ q, s, z = DynamicQuantizeLinear (x)
        y = {M}.MatMulIntegerToFloat (q, w, s, ws, z, wz) }}""",
    ],
)
def test_products(text: str) -> None:
    before, after = parse(f"{HEAD} {text}"), parse(f"{HEAD} {text}")
    assert SplitDynamicProduct()(after).modified
    RemoveUnused()(after)
    assert [n.op_type for n in after.graph] == ["DequantizeLinear", "MatMul"]
    assert list(after.graph)[1].metadata_props[ACTIVATION] == DYNAMIC
    x = np.array([[0.7, -1.3]], np.float32)
    gap = np.abs(run(before, {"x": x})[0] - run(after, {"x": x})[0]).max()
    assert gap <= 2.0 / 255 * (0.5 + 2.5)  # x_scale · Σ |w|


def test_convolution_takes_its_bias() -> None:
    text = """f (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <uint8[1,1,1,1] w = {3}, float ws = {0.5}, uint8 wz = {1}, float[1,1,1,1] b = {4}>
    { q, s, z = DynamicQuantizeLinear (x)   i = ConvInteger (q, w, z, wz)
      c = Cast <to = 1> (i)   t = Mul (s, ws)   r = Mul (c, t)   y = Add (r, b) }"""
    after = parse(text)
    assert SplitDynamicProduct()(after).modified
    RemoveUnused()(after)
    assert [n.op_type for n in after.graph] == ["DequantizeLinear", "Conv"]
    x = np.array([[[[1, 2], [-3, 4]]]], np.float32)
    gap = np.abs(run(parse(text), {"x": x})[0] - run(after, {"x": x})[0]).max()
    assert gap <= 7.0 / 255 * 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "{ q = Cast <to = 2> (x)   y = MatMulInteger (q, w) }",
            "its activations do not come from DynamicQuantizeLinear",
        ),
        (
            "{ q, s, z = DynamicQuantizeLinear (x)   y = MatMulInteger (q, w, z) }",
            "its sums are not scaled by a Mul",
        ),
        (
            """{ q, s, z = DynamicQuantizeLinear (x)   i = MatMulInteger (q, w, z)
            c = Cast <to = 1> (i)   y = Mul (c, ws) }""",
            "the scale is not that of its activations times that of its weight",
        ),
        (
            """{ q, s, z = DynamicQuantizeLinear (x)   v = Neg (s)
            i = MatMulInteger (q, w, z)   c = Cast <to = 1> (i)   t = Mul (s, v)
            y = Mul (c, t) }""",
            "its weight, scale or zero point is computed at run time",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    output = "float" if "Mul (c" in text else "int32"
    head = f"f (float[1,2] x) => ({output}[1,1] y) <{W}>"
    assert_left_alone(SplitDynamicProduct(), f"{head} {text}", reason)


def test_a_stack_of_matrices_is_left_alone() -> None:
    text = """f (float[1,1,2] x) => (float[1,1,1] y)
    <uint8[1,2,1] w = {3, 5}, float ws = {0.5}, uint8 wz = {1}>
    { q, s, z = DynamicQuantizeLinear (x)   i = MatMulInteger (q, w, z, wz)
      c = Cast <to = 1> (i)   t = Mul (s, ws)   y = Mul (c, t) }"""
    reason = "its weight has 3 dimensions; a matrix and 1-D or 2-D Conv have kernels"
    assert_left_alone(SplitDynamicProduct(), text, reason)
