# SPDX-License-Identifier: Apache-2.0
"""Casts and shapes of constants go into the constants, which large ones are only when read."""

import onnx_ir as ir
import pytest

from qcompile.passes.normalise import fold_data_op_into_weight
from qcompile.passes.normalise.fold_data_op_into_weight import FoldDataOpIntoWeight
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

W = "float[2,3] w = {1, 2, 3, 4, 5, 6}"


def product(change: str, constants: str = "", op: str = "Gemm", x: str = "4,3") -> str:
    return f"""f (float[{x}] x) => (float[p,q] y) <{W}{constants}>
    {{ {change}   y = {op} (x, c) }}"""


@pytest.mark.parametrize(
    "text",
    [
        product("c = Transpose (w)"),
        product("c = Transpose <perm = [1, 0]> (w)"),
        product("c = Reshape (w, s)", ", int64[2] s = {3, -1}"),
        product("f = Flatten <axis = 0> (w)   c = Reshape (f, s)", ", int64[2] s = {3, 2}"),
        product("u = Unsqueeze (w, a)   c = Squeeze (u, a)", ", int64[1] a = {0}", x="4,2"),
        product("d = Cast <to = 10> (w)   c = Cast <to = 1> (d)", x="4,2"),
    ],
)
@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_chains(text: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_data_op_into_weight, "EAGER_BYTES", limit)
    model = parse(text)
    assert FoldDataOpIntoWeight()(model).modified
    assert [n.op_type for n in model.graph] == ["Gemm"]
    weight = model.graph[0].inputs[1]
    assert isinstance(weight.const_value, ir.LazyTensor) == (limit == 0)
    assert_equal_outputs(parse(text), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (product("c = Transpose (w)", op="MatMul"), None),
        (
            f"""f (float[4,3] x) => (float[4,2] y, float[3,2] c) <{W}>
            {{ c = Transpose (w)   y = Gemm (x, c) }}""",
            "it is an output of the model",
        ),
        (
            f"""f (float[4,3] x, int64[2] s) => (float[p,q] y) <{W}>
            {{ c = Reshape (w, s)   y = Gemm (x, c) }}""",
            None,
        ),
        (product("c = Cast <to = 7> (w)   d = Cast <to = 1> (c)").replace("(x, c)", "(x, d)"),)
        + ("the shape of its output is not known, or it is no float",),
        ("f (float[2] x) => (float[2] y) { c = Cast <to = 10> (x)   y = Cast <to = 1> (c) }", None),
    ],
)
def test_left_alone(text: str, reason: str | None) -> None:
    assert_left_alone(FoldDataOpIntoWeight(), text, reason)
