# SPDX-License-Identifier: Apache-2.0
"""Target ort: the weight of a static product has as many zero points as scales."""

import numpy as np
import pytest

from qcompile.graph import constant, input_of
from qcompile.passes import LOWER_ORT
from qcompile.passes.lower.insert_zero_point_into_weight import InsertZeroPointIntoWeight
from qcompile.session import open_model, session_options
from tests.passes.graphs import run
from tests.passes.stages import run_passes, staged, with_weights

BODY = "m = Gemm (x, w, k)   y = Relu (m)"


def weight_node(model):
    gemm = next(n for n in model.graph if n.op_type in ("Gemm", "MatMul"))
    back = gemm.inputs[1].producer()
    return back if back.op_type == "DequantizeLinear" else back.inputs[0].producer()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_zeros(seed: int) -> None:
    text = f"f (float[3,8] x, float w, float k) => (float[3,6] y) {{ {BODY} }}"
    found = staged(with_weights(text, seed, w=(8, 6), k=(6,)), "w8a8", "ort")
    (before,) = run(found.quantized, found.feed)
    assert input_of(weight_node(found.quantized), 2) is None
    lowered = run_passes(found.quantized, InsertZeroPointIntoWeight())
    points = constant(weight_node(lowered).inputs[2])
    assert points.dtype == np.int8 and points.tolist() == [0] * 6
    np.testing.assert_array_equal(run(lowered, found.feed)[0], before)


def test_matmul_that_becomes_a_gemm() -> None:
    """What ONNX Runtime's optimiser makes of MatMul and Add runs and gives the same codes."""
    text = """f (float[b,16] x, float w, float k, float c) => (float[b,6] y, float[b,8] z)
    { t, u = Split <axis = 1, num_outputs = 2> (x)   v = Max (t, c)   m = MatMul (t, w)
      y = Add (m, k)   z = Add (u, v) }"""
    net = with_weights(text.replace(", num_outputs = 2", ""), 0, w=(8, 6), k=(6,), c=(8,))
    found = staged(net, "w8a8", "ort")
    lowered = run_passes(found.quantized, *LOWER_ORT())
    wanted = run(found.quantized, found.feed)
    made = open_model(lowered, session_options(1)).run(None, found.feed)
    step = constant(next(n for n in lowered.graph if n.name == "y/dequantize").inputs[1])
    assert np.abs(made[0] - wanted[0]).max() <= step * 1.001  # a tie may round to the other code
    np.testing.assert_array_equal(made[1], wanted[1])


def test_matmul_alone() -> None:
    """Without VNNI ONNX Runtime makes the weights uint8, and takes the zero points along."""
    text = "f (float[3,8] x, float w) => (float[3,6] y) { m = MatMul (x, w)  y = Neg (m) }"
    found = staged(with_weights(text, 0, w=(8, 6)), "w8a8", "ort")
    lowered = run_passes(found.quantized, *LOWER_ORT())
    assert constant(weight_node(lowered).inputs[2]).tolist() == [0] * 6
    options = session_options(1)
    options.add_session_config_entry("session.x64quantprecision", "1")
    (made,) = open_model(lowered, options).run(None, found.feed)
    (wanted,) = run(found.quantized, found.feed)
    step = constant(next(n for n in lowered.graph if n.name == "m/dequantize").inputs[1])
    assert np.abs(made - wanted).max() <= step * 1.001  # a tie may round to the other code


def test_no_product_is_left_without() -> None:
    """Of Conv and MatMul, too, and no second time."""
    text = """f (float[b,8,4,4] x, float w, float k) => (float[b,6,4,4] y)
    { c = Conv (x, w)   t = Transpose <perm = [0,2,3,1]> (c)   m = MatMul (t, k)
      y = Transpose <perm = [0,3,1,2]> (m) }"""
    found = staged(with_weights(text, 0, w=(8, 8, 1, 1), k=(8, 6)), "w8a8", "ort")
    lowered = run_passes(found.quantized, *LOWER_ORT())
    backs = [weight_back(n) for n in lowered.graph if n.op_type in ("Conv", "MatMul")]
    assert [constant(back.inputs[2]).tolist() for back in backs] == [[0] * 8, [0] * 6]
    again = InsertZeroPointIntoWeight()
    assert not again(lowered).modified and not again.refusals


def weight_back(node):
    return node.inputs[1].producer()


def test_dynamic_products_are_left_alone() -> None:
    text = "f (float[3,8] x, float w) => (float[3,6] y) { y = MatMul (x, w) }"
    found = staged(with_weights(text, 0, w=(8, 6)), "w8a8-dynamic", "ort")
    lowered = run_passes(found.quantized, *LOWER_ORT())
    each = InsertZeroPointIntoWeight()
    assert not each(lowered).modified and not each.refusals
