# SPDX-License-Identifier: Apache-2.0
"""Two small products beside a product: after its bias, before what follows."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.normalise import normalise
from qcompile.passes.transform.insert_low_rank import InsertLowRank
from qcompile.passes.transform.saliency_rank import LowRank
from qcompile.passes.transform.stats import Stats, Work
from qcompile.plan import Plan
from qcompile.recipe import Recipe
from qcompile.session import open_model, session_options
from tests.passes.stages import with_weights

HEAD = "f (float[b,16] x, float w, float k) => (float[b,4] y) "
BODIES = {
    "alone": "{ y = MatMul (x, w) }",
    "bias": "{ h = MatMul (x, w)   y = Add (h, k) }",
    "relu": "{ h = MatMul (x, w)   s = Add (h, k)   y = Relu (s) }",
    "two readers": "{ h = MatMul (x, w)   s = Relu (h)   t = Neg (h)   y = Add (s, t) }",
}


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return open_model(model, session_options()).run(["y"], {"x": x})[0]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_result_is_that_of_the_sum_of_both_weights(body: str) -> None:
    model = normalise(with_weights(HEAD + body, w=(16, 4), k=(4,)))
    node = next(n for n in model.graph if n.op_type == "MatMul")
    rng = np.random.default_rng(0)
    # Small integers: floats are exact.
    inner, outer = rng.integers(-2, 3, (3, 16)), rng.integers(-2, 3, (4, 3))
    part = LowRank(inner.astype(np.float32), outer.astype(np.float32), np.zeros((0, 1, 16)))
    other = model.clone()
    value = next(v for v in other.graph.initializers.values() if v.shape == (4, 16))
    value.const_value = ir.tensor(
        (np.rint(value.const_value.numpy()) + outer @ inner).astype(np.float32), name=value.name
    )
    for each in (model, other):
        for held in each.graph.initializers.values():
            if held.dtype == ir.DataType.FLOAT:
                rounded = np.rint(held.const_value.numpy()).astype(np.float32)
                held.const_value = ir.tensor(rounded, name=held.name)
    stats = replace(Stats(), low_rank={node.name: part})
    work = Work(Plan("", "", {}), stats, Recipe())
    changed = InsertLowRank(work)(model).model
    kinds = [n.op_type for n in changed.graph]
    assert kinds.count("MatMul") == 3
    assert [v.name for v in changed.graph.outputs] == ["y"]
    x = rng.integers(-4, 5, (5, 16)).astype(np.float32)
    assert np.array_equal(run(changed, x), run(other, x))
    if "Relu" in kinds and "s = Add" in body:  # the bias is still the product's own
        assert kinds.index("Add") < kinds.index("Relu")


def test_products_without_a_part_stay() -> None:
    model = normalise(with_weights(HEAD + BODIES["alone"], w=(16, 4), k=(4,)))
    count = len(list(model.graph))
    result = InsertLowRank(Work(Plan("", "", {}), Stats(), Recipe()))(model)
    assert not result.modified
    assert len(list(result.model.graph)) == count
