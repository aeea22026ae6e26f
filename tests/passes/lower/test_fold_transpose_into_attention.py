# SPDX-License-Identifier: Apache-2.0
"""QAttention reads and writes with strides what was moved: no transpose is left."""

import onnx_ir as ir
import pytest

from qcompile.graph import attribute
from qcompile.passes.lower.fold_transpose_into_attention import FoldTransposeIntoAttention
from tests.passes.graphs import parse
from tests.passes.lower.test_lower_attention import checked, lowered
from tests.passes.stages import find, ops

FUSED = """f (float[b,5,16] x, float w, float o) => (float[b,5,16] y)
<int64[5] parts = {0, 0, 3, 2, 8}, int64[3] joined = {0, 0, 16}, int64[3] ones = {1, 1, 1},
 int64[1] first = {0}, int64 i = {0}, int64 j = {1}, int64 k = {2}>
{ flat = MatMul (x, w)   five = Reshape (flat, parts)
  turned = Transpose <perm = [2, 0, 3, 1, 4]> (five)
  PICKED
  kt = Transpose <perm = [0, 1, 3, 2]> (kk)   s = MatMul (q, kt)   p = Softmax <axis = 3> (s)
  a = MatMul (p, v)   a_heads = Transpose <perm = [0, 2, 1, 3]> (a)
  a_flat = Reshape (a_heads, joined)   y = MatMul (a_flat, o) }"""


@pytest.mark.parametrize(
    "picked",
    [
        """q = Gather <axis = 0> (turned, i)   kk = Gather <axis = 0> (turned, j)
        v = Gather <axis = 0> (turned, k)""",
        """q1, k1, v1 = Split <axis = 0> (turned, ones)   q = Squeeze (q1, first)
        kk = Squeeze (k1, first)   v = Squeeze (v1, first)""",
    ],
)
def test_parts_of_one_product_stay_where_they_are(picked: str) -> None:
    found, model = lowered(FUSED.replace("PICKED", picked), w=(16, 48), o=(16, 16))
    kinds = [k for k in ops(model) if k != "Reshape"]
    assert kinds == ["QuantizeLinear", "QMatMul", "QAttention", "QMatMul"]
    node = find(model, "QAttention")
    assert len({v.name for v in node.inputs}) == 1
    assert [list(attribute(node, f"{n}_index")) for n in "qkv"] == [[0], [1], [2]]
    assert [list(attribute(node, f"{n}_perm")) for n in "qkv"] == [
        [0, 3, 1, 4],
        [0, 3, 4, 1],
        [0, 3, 1, 4],
    ]
    assert checked(found, model)
    assert not checked(found, model, change=128)


def folded(body: str, outputs: str = "uint8[2,4,3,8] y") -> ir.Model:
    """A graph whose QAttention reads x, and what is done to it."""
    given = ", ".join(f"{n}_zero_point = 8" for n in "qkvy")
    model = parse(
        f"""f (uint8[2,3,4,8] x, uint8[2,3,8,4] k, uint8[2,3,4,8] v) => ({outputs})
    <int64[4] mixed = {{2, 3, 4, 8}}> {{ {body} }}""".replace("GIVEN", given)
    )
    FoldTransposeIntoAttention()(model)
    return model


def test_what_others_read_stays() -> None:
    model = folded(
        """t = Transpose <perm = [0, 2, 1, 3]> (x)   u = Transpose <perm = [0, 2, 1, 3]> (t)
        y = com.qcompile.QAttention <GIVEN> (u, k, v)""",
        "uint8[2,3,4,8] y, uint8[2,4,3,8] t",
    )
    assert ops(model) == ["Transpose", "QAttention"]
    node = find(model, "QAttention")
    assert node.inputs[0] is model.graph.inputs[0]
    assert list(attribute(node, "q_perm")) == [0, 1, 2, 3]


def test_an_output_that_two_read_keeps_its_transpose() -> None:
    model = folded(
        """a = com.qcompile.QAttention <GIVEN> (x, k, v)
        y = Transpose <perm = [0, 2, 1, 3]> (a)   z = Identity (a)""",
        "uint8[2,4,3,8] y, uint8[2,3,4,8] z",
    )
    assert ops(model) == ["QAttention", "Transpose", "Identity"]


def test_a_graph_output_keeps_its_name() -> None:
    model = folded(
        "a = com.qcompile.QAttention <GIVEN> (x, k, v)   y = Transpose <perm = [0, 2, 1, 3]> (a)"
    )
    assert ops(model) == ["QAttention"]
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert list(attribute(find(model, "QAttention"), "y_perm")) == [0, 2, 1, 3]
