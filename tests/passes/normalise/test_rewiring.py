# SPDX-License-Identifier: Apache-2.0
"""Large weights are changed when they are read, so that the source's file stays the only copy."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.passes.normalise import rewiring
from qcompile.passes.normalise.insert_height_into_conv import InsertHeightIntoConv
from tests.passes.graphs import assert_equal_outputs, parse

TEXT = """f (float[1,1,4] x) => (float[1,1,3] y) <float[1,1,2] w = {1, 2}>
{ y = Conv (x, w) }"""


def test_a_large_weight_stays_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewiring, "EAGER_BYTES", 0)
    model = parse(TEXT)
    InsertHeightIntoConv()(model)
    weight = model.graph.initializers["w_high"]
    assert isinstance(weight.const_value, ir.LazyTensor)
    assert weight.const_value.numpy().shape == tuple(weight.shape.numpy()) == (1, 1, 1, 2)
    assert_equal_outputs(parse(TEXT), model)


def test_a_small_one_is_an_array() -> None:
    model = parse(TEXT)
    InsertHeightIntoConv()(model)
    held = model.graph.initializers["w_high"].const_value
    assert not isinstance(held, ir.LazyTensor)
    assert np.array_equal(held.numpy().ravel(), [1, 2])


def test_what_is_put_after_a_node_takes_its_name_and_its_readers() -> None:
    model = parse("""f (float[2] x) => (float[2] y, float[2] z) { y = Neg (x)   z = Relu (y) }""")
    made = rewiring.append(model.graph[0], "Abs", suffix="before")
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    assert model.graph.outputs[0] is made.outputs[0]
    assert model.graph[0].outputs[0].name == "y_before"
    assert model.graph[-1].inputs[0] is made.outputs[0]
