# SPDX-License-Identifier: Apache-2.0
"""A constant of two numbers takes a byte an element, and keeps its bits."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import add_initializer
from qcompile.passes.lower.lower_mask_into_where import LEAST_ELEMENTS, LowerMaskIntoWhere
from qcompile.session import open_model, session_options
from tests.passes.graphs import parse

SIDE = 64
CAUSAL = np.triu(np.full((SIDE, SIDE), -np.inf, np.float32), 1)


def masked(mask: np.ndarray) -> ir.Model:
    """x + mask."""
    sizes = ",".join(map(str, mask.shape))
    model = parse(f"f (float[{sizes}] x) => (float[{sizes}] y) {{ y = Add (x, x) }}")
    model.graph[0].replace_input_with(1, add_initializer(model.graph, "mask", mask))
    return model


@pytest.mark.parametrize("low", [-np.inf, -1e9, np.float32(-3.4028235e38), -0.0])
def test_bits_are_kept(low: float) -> None:
    mask = np.where(np.triu(np.ones((SIDE, SIDE)), 1) > 0, np.float32(low), np.float32(0))
    model = masked(mask)
    before = open_model(model, session_options()).run(None, {"x": np.zeros_like(mask)})[0]
    assert LowerMaskIntoWhere()(model).modified
    stored = {v.name: v.const_value.nbytes for v in model.graph.initializers.values()}
    assert stored == {"mask_first": SIDE * SIDE, "mask_0": 4, "mask_1": 4}
    after = open_model(model, session_options()).run(None, {"x": np.zeros_like(mask)})[0]
    np.testing.assert_array_equal(before.view(np.uint32), after.view(np.uint32))
    where = model.graph[0]
    numbers = [where.inputs[i].const_value.numpy() for i in range(3)]
    kept = np.where(*numbers).astype(np.float32)
    np.testing.assert_array_equal(kept.view(np.uint32), mask.view(np.uint32))


def test_weights_are_not_looked_at() -> None:
    model = masked(CAUSAL)
    model.graph[0].op_type = "MatMul"
    assert not LowerMaskIntoWhere()(model).modified


@pytest.mark.parametrize(
    "mask",
    [
        CAUSAL[:, : SIDE - 1],
        np.zeros((SIDE, SIDE), np.float32),
        np.where(np.eye(SIDE) > 0, np.float32(1), CAUSAL),
    ],
    ids=["small", "one number", "three numbers"],
)
def test_left_alone(mask: np.ndarray) -> None:
    assert mask.size == LEAST_ELEMENTS or mask.shape[1] < SIDE
    assert not LowerMaskIntoWhere()(masked(mask)).modified
