# SPDX-License-Identifier: Apache-2.0
"""Quantized regions are NHWC from their first op to their last: transposes are counted."""

import onnx_ir as ir
import pytest

from qcompile.passes import LOWER_CPU
from tests.passes.stages import assert_lowered, ops, run_passes, staged, with_weights

C3, C1 = (4, 4, 3, 3), (4, 4, 1, 1)
NETS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "residual": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,3] y)
        { p = Conv <pads = [1,1,1,1]> (x, w)   r = Relu (p)   c = Conv <pads = [1,1,1,1]> (r, u)
          a = Add (c, r)   q = Relu (a)   d = Conv <strides = [2,2]> (q, v)
          g = GlobalAveragePool (d)   f = Flatten (g)   y = Gemm <transB = 1> (f, k) }""",
        {"w": C3, "u": C3, "v": C3, "k": (3, 4)},
    ),
    "fire": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,4,h,z] y)
        { p = Conv (x, w)   s = MaxPool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (p)
          a = Conv (s, u)   d = Conv <pads = [1,1,1,1]> (s, v)   q = Relu (d)
          m = Concat <axis = 1> (a, q)   y = Conv (m, k) }""",
        {"w": C1, "u": C1, "v": C3, "k": (4, 8, 1, 1)},
    ),
    "inverted residual": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,4,h,z] y)
        { p = Conv (x, w)   r = HardSwish (p)   c = Conv <group = 4, pads = [1,1,1,1]> (r, u)
          g = GlobalAveragePool (c)   e = Conv (g, v)   s = HardSigmoid (e)   m = Mul (c, s)
          d = Conv (m, k)   a = Add (p, d)   y = Conv (a, w) }""",
        {"w": C1, "u": (4, 1, 3, 3), "v": C1, "k": C1},
    ),
    "u-net": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,4,8,8] y)
        <float[4] twice = {1, 1, 2, 2}, int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}>
        { t = Pad (x, pads)   p = Conv (t, w)   r = Relu (p)
          n = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)   c = Conv (n, u)
          e = Resize <mode = "nearest"> (c, , twice)
          l = Resize <mode = "linear"> (c, , twice)   m = Concat <axis = 1> (e, r, l)
          y = Conv (m, k) }""",
        {"w": C3, "u": C1, "v": C1, "k": (4, 12, 1, 1)},
    ),
    "channel shuffle": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,4,8,8] y)
        <int64[5] five = {-1, 2, 2, 8, 8}, int64[4] four = {-1, 4, 8, 8}>
        { c = Conv (x, w)   p, q = Split <axis = 1> (c)   d = Conv (p, u)   e = LeakyRelu (d)
          m = Concat <axis = 1> (q, e)   a = Reshape (m, five)
          s = Transpose <perm = [0,2,1,3,4]> (a)   t = Reshape (s, four)   y = Conv (t, k) }""",
        {"w": C1, "u": (2, 2, 1, 1), "v": C1, "k": C1},
    ),
    "pixel shuffle": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,4,8,8] y)
        { c = Conv (x, w)   e = DepthToSpace <blocksize = 2> (c)   d = Conv (e, u)
          r = Relu (d)   s = SpaceToDepth <blocksize = 2> (r)   y = Conv (s, k) }""",
        {"w": C1, "u": (1, 1, 1, 1), "v": C1, "k": C1},
    ),
    "rows of a head": (
        """f (float[b,4,8,8] x, float w, float u, float v, float k) => (float[b,64,4] y)
        <int64[3] three = {0, 4, -1}>
        { c = Conv (x, w)   r = Relu (c)   d = Conv (r, u)   s = Sigmoid (d)
          a = Reshape (s, three)   y = Transpose <perm = [0,2,1]> (a) }""",
        {"w": C1, "u": C1, "v": C1, "k": C1},
    ),
}
MORE = {  # transposes beside those at both ends
    "channel shuffle": [(0, 1, 2, 4, 3)],
    "pixel shuffle": [(0, 1, 3, 2, 4, 5)] * 2,
}
ROWS = ("residual", "rows of a head")  # what leaves is no map


def without_unused(text: str, shapes: dict[str, tuple[int, ...]]) -> ir.Model:
    """The net; a weight that it does not read is no input of it."""
    body = text.split("=>")[1]
    used = {k: v for k, v in shapes.items() if f" {k})" in body or f" {k} " in body}
    for name in set(shapes) - set(used):
        text = text.replace(f", float {name}", "", 1)
    return with_weights(text, **used)


@pytest.mark.parametrize("gives_floats", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_transposes(name: str, gives_floats: bool) -> None:
    text, shapes = NETS[name]
    found = staged(without_unused(text, shapes), gives_floats=gives_floats)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    perms = [tuple(n.attributes["perm"].value) for n in lowered.graph if n.op_type == "Transpose"]
    floats = {"Relu", "Add", "Mul", "HardSwish", "HardSigmoid", "LeakyRelu", "Resize", "Concat"}
    data = [(n.op_type, n.inputs[0]) for n in lowered.graph]
    kept = {kind for kind, v in data if v is not None and v.dtype == ir.DataType.FLOAT}
    assert not floats & kept
    expected = [(0, 2, 3, 1), *MORE.get(name, []), *[(0, 3, 1, 2)] * (name not in ROWS)]
    assert perms == expected, ops(lowered)
    assert_lowered(found.quantized, lowered, found.feed)
