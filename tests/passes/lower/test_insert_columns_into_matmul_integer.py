# SPDX-License-Identifier: Apache-2.0
"""Target ort: no dynamic product has columns that ONNX Runtime 1.21 to 1.24 gets wrong with AMX."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.graph import constant
from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.insert_columns_into_matmul_integer import (
    InsertColumnsIntoMatmulInteger,
)
from qcompile.passes.lower.split_shared_weight import SplitSharedWeight
from tests.passes.graphs import assert_left_alone, run
from tests.passes.stages import find, ops, run_passes, staged, with_weights

BODIES = ("y = MatMul (x, w)", "m = MatMul (x, w)   y = Add (k, m)", "y = Gemm (x, w, k)")


def lowered(body: str, n: int, seed: int = 0) -> tuple[ir.Model, ir.Model, dict]:
    """Without the pass, with all of ort's passes, and a feed."""
    text = f"f (float[b,8] x, float w, float k) => (float[b,{n}] y) {{ {body} }}"
    found = staged(with_weights(text, seed, w=(8, n), k=(n,)), "w8a8-dynamic", "ort")
    rest = [p for p in LOWER_ORT() if not isinstance(p, InsertColumnsIntoMatmulInteger)]
    feed = {"x": np.random.default_rng(seed).standard_normal((70, 8)).astype(np.float32)}
    return run_passes(found.quantized, *rest), run_passes(found.quantized, *LOWER_ORT()), feed


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n", [17, 20, 31, 49, 63])
@pytest.mark.parametrize("body", BODIES)
def test_wide(body: str, n: int, seed: int) -> None:
    """The weight has zeros up to a multiple of 32, and no number changes."""
    before, after, feed = lowered(body, n, seed)
    wide = constant(find(after, "MatMulInteger").inputs[1])
    assert wide.shape == (8, -(-n // 32) * 32)
    assert wide[:, :n].any() and not wide[:, n:].any()
    np.testing.assert_array_equal(run(after, feed)[0], run(before, feed)[0])


@pytest.mark.parametrize("n", [1, 6, 15, 16, 32, 33, 48, 64])
def test_left_alone(n: int) -> None:
    before, after, _ = lowered(BODIES[0], n)
    assert ops(before) == ops(after)
    assert constant(find(after, "MatMulInteger").inputs[1]).shape == (8, n)


def test_a_weight_of_the_call_is_left_alone() -> None:
    text = """f (uint8[2,8] q, int8[8,20] w, uint8 z) => (int32[2,20] y)
    { y = MatMulInteger (q, w, z) }"""
    assert_left_alone(InsertColumnsIntoMatmulInteger(), text)


def test_two_products_of_one_weight_widen_it_once() -> None:
    text = """f (float[b,8] x, float[b,8] v, float w) => (float[b,20] y)
    { m = MatMul (x, w)   n = MatMul (v, w)   y = Sub (m, n) }"""
    found = staged(with_weights(text, w=(8, 20)), "w8a8-dynamic", "ort")
    before = [p for p in LOWER_ORT() if not isinstance(p, SplitSharedWeight)]
    model = run_passes(found.quantized, *before)
    weights = [n.inputs[1] for n in model.graph if n.op_type == "MatMulInteger"]
    assert len(weights) == 2 and weights[0] is weights[1]
