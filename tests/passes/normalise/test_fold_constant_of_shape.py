# SPDX-License-Identifier: Apache-2.0
"""ConstantOfShape of a known shape is an initializer, which a large one fills when it is read."""

import onnx_ir as ir
import pytest

from qcompile.passes.normalise import fold_constant_of_shape
from qcompile.passes.normalise.fold_constant_of_shape import FoldConstantOfShape
from tests.passes.graphs import assert_equal_outputs, assert_left_alone, parse

FILLED = """f (float[3,4] x) => (float[3,2] y) <int64[2] s = {4, 2}>
{ c = ConstantOfShape <value = float[1] {2.5}> (s)   y = MatMul (x, c) }"""


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_filled(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_constant_of_shape, "EAGER_BYTES", limit)
    model = parse(FILLED)
    assert FoldConstantOfShape()(model).modified
    weight = model.graph[0].inputs[1]
    assert isinstance(weight.const_value, ir.LazyTensor) == (limit == 0)
    assert weight.const_value.numpy().tolist() == [[2.5, 2.5]] * 4
    assert_equal_outputs(parse(FILLED), model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """f (float[3] x, int64[1] s) => (float[3] y)
            { c = ConstantOfShape (s)   y = Add (x, c) }""",
            "its shape is computed at run time",
        ),
        (
            """f (float[3] x) => (float[3] y, float[3] c) <int64[1] s = {3}>
            { c = ConstantOfShape (s)   y = Add (x, c) }""",
            "it is an output of the model",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    assert_left_alone(FoldConstantOfShape(), text, reason)
