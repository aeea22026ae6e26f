# SPDX-License-Identifier: Apache-2.0
"""Target ort: dynamic 8-bit products become ConvInteger and MatMulInteger."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompile.graph import constant
from qcompile.numerics.conv import Window
from qcompile.observers.weight_range import code_weight
from qcompile.passes.lower.lower_product_into_integer_op import LowerProductIntoIntegerOp
from qcompile.passes.lower.qdq import weight_codes_of
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.transform.code_store import scale_method
from qcompile.session import exact_options, open_model
from tests.numerics import loops
from tests.passes.graphs import lines_of, run
from tests.passes.stages import find, ops, run_passes, staged, with_weights

UNIT = 2.0**-23


def dynamic_linear(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], np.float32]:
    """ONNX DynamicQuantizeLinear: centred codes and the scale."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    point = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + point, 0, 255) - point).astype(np.int64), scale


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "body", ["y = MatMul (x, w)", "m = MatMul (x, w)   y = Add (k, m)", "y = Gemm (x, w, k)"]
)
def test_products(body: str, seed: int) -> None:
    text = f"f (float[b,8] x, float w, float k) => (float[b,6] y) {{ {body} }}"
    found = staged(with_weights(text, seed, w=(8, 6), k=(6,)), "w8a8-dynamic", "ort")
    lowered = run_passes(found.quantized, LowerProductIntoIntegerOp(), RemoveUnused())
    expected = ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"]
    assert ops(lowered) == expected + ["Add"] * ("k" in body)
    matmul = next(n for n in found.quantized.graph if n.op_type in ("MatMul", "Gemm"))
    spec = weight_codes_of(matmul.inputs[1]).spec
    raw = constant(found.normalised.graph.initializers["w_nk"])
    weight = code_weight(np.ascontiguousarray(raw), spec, scale_method(spec, None))
    codes, scale = dynamic_linear(found.feed["x"])
    bias = constant(found.normalised.graph.initializers["k"]) if "k" in body else np.zeros(6)
    terms = (codes @ weight.codes.T.astype(np.int64)) * (weight.scale[:, 0] * np.float64(scale))
    bound = 4 * UNIT * (np.abs(terms) + np.abs(bias))  # two products, the sum, the Cast
    (got,) = open_model(lowered, exact_options(lowered)).run(None, found.feed)
    assert (np.abs(got - terms - bias) <= bound).all()
    assert (np.abs(got + weight.scale[:, 0] * scale - terms - bias) > bound).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_convs(group: int, seed: int) -> None:
    text = f"""f (float[b,4,5,5] x, float w, float k) => (float[b,4,5,5] y)
    {{ y = Conv <group = {group}, pads = [1,1,1,1]> (x, w, k) }}"""
    found = staged(with_weights(text, seed, w=(4, 4 // group, 3, 3), k=(4,)), "w8a8-dynamic", "ort")
    lowered = run_passes(found.quantized, LowerProductIntoIntegerOp(), RemoveUnused())
    assert ops(lowered) == ["DynamicQuantizeLinear", "ConvInteger", "Cast", "Mul", "Mul", "Add"]
    spec = weight_codes_of(find(found.quantized, "Conv").inputs[1]).spec
    raw = constant(found.normalised.graph.initializers["w"]).transpose(0, 2, 3, 1).reshape(4, -1)
    weight = code_weight(np.ascontiguousarray(raw), spec, scale_method(spec, None))
    codes, scale = dynamic_linear(found.feed["x"])
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    nhwc = codes.transpose(0, 2, 3, 1)
    sums = loops.conv(nhwc[:1], weight.codes, (3, 3), (1, 1), window.pads, (1, 1), group)
    bias = constant(found.normalised.graph.initializers["k"])
    terms = sums * (weight.scale[:, 0] * np.float64(scale))
    bound = 4 * UNIT * (np.abs(terms) + np.abs(bias))
    got = run(lowered, found.feed)[0].transpose(0, 2, 3, 1)[:1]
    assert (np.abs(got - terms - bias) <= bound).all()
    assert (np.abs(got + weight.scale[:, 0] * scale - terms - bias) > bound).all()


def test_two_products_of_one_value_quantize_it_once() -> None:
    text = """f (float[b,8] x, float w, float u) => (float[b,6] y)
    { m = MatMul (x, w)   n = MatMul (x, u)   y = Sub (m, n) }"""
    found = staged(with_weights(text, w=(8, 6), u=(8, 6)), "w8a8-dynamic", "ort")
    lowered = run_passes(found.quantized, LowerProductIntoIntegerOp(), RemoveUnused())
    assert ops(lowered).count("DynamicQuantizeLinear") == 1
    assert ops(lowered).count("MatMulInteger") == 2
    assert run(lowered, found.feed)[0].shape == (4, 6)


@pytest.mark.parametrize("preset", ["w8a8", "w8a16", "w4a8-dynamic"])
def test_left_alone(preset: str) -> None:
    text = "f (float[b,64] x, float w) => (float[b,6] y) { y = MatMul (x, w) }"
    found = staged(with_weights(text, w=(64, 6)), preset, "ort", edge_bits=1)
    model, each = found.quantized.clone(), LowerProductIntoIntegerOp()
    before = lines_of(model)
    assert not each(model).modified
    assert each.refusals == []
    assert lines_of(model) == before
