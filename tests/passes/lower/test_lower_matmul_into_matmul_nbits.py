# SPDX-License-Identifier: Apache-2.0
"""Target ort: float products become MatMulNBits."""

import numpy as np
import pytest

from qcompile.graph import attribute, constant
from qcompile.numerics.matmul import qmatmul_float
from qcompile.observers.weight_range import code_weight
from qcompile.passes.lower.lower_matmul_into_matmul_nbits import LowerMatmulIntoMatmulNbits
from qcompile.passes.lower.qdq import weight_codes_of
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.transform.code_store import as_matrix, scale_method
from qcompile.recipe import Rule
from tests.passes.graphs import lines_of, run
from tests.passes.stages import find, ops, run_passes, staged, with_weights

CASES = {
    "matmul": "y = MatMul (x, w)",
    "gemm": "y = Gemm (x, w, k)",
    "bias first": "m = MatMul (x, w)   y = Add (k, m)",
}


def net(body: str, preset: str, k: int, seed: int = 0):  # type: ignore[no-untyped-def]
    """One product."""
    text = f"f (float[b,{k}] x, float w, float k) => (float[b,24] y) {{ {body} }}"
    return staged(with_weights(text, seed, w=(k, 24), k=(24,)), preset, "ort", edge_bits=1)


@pytest.mark.parametrize("preset", ["w8a16", "w4a16", "w2a16"])
@pytest.mark.parametrize("k", [40, 64, 150])
@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_lowered(body: str, k: int, preset: str) -> None:
    for seed in (0, 1, 2):
        found = net(body, preset, k, seed)
        spec = weight_codes_of(
            next(n for n in found.quantized.graph if n.op_type in ("MatMul", "Gemm")).inputs[1]
        ).spec
        lowered = run_passes(found.quantized, LowerMatmulIntoMatmulNbits(), RemoveUnused())
        assert ops(lowered) == ["MatMulNBits"] + ["Add"] * (body != CASES["matmul"])
        node = find(lowered, "MatMulNBits")
        assert [attribute(node, a) for a in ("K", "N", "accuracy_level")] == [k, 24, 0]
        stored = next(v for n, v in found.normalised.graph.initializers.items() if n == "w_nk")
        method = scale_method(spec, found.work.recipe.weight_scale_method)
        weight = code_weight(as_matrix(stored.const_value), spec, method)
        bias = (
            None if body == CASES["matmul"] else constant(found.normalised.graph.initializers["k"])
        )
        y, bound = qmatmul_float(found.feed["x"], weight, bias)
        (got,) = run(lowered, found.feed)
        assert (np.abs(got - y) <= bound).all()
        step = weight.scale.max() * np.abs(found.feed["x"]).max(1, keepdims=True)
        assert (np.abs(got + step - y) > bound).all()  # one code more, at the greatest input


@pytest.mark.parametrize("preset", ["w4a8-dynamic"])
def test_dynamic_blocks_say_so(preset: str) -> None:
    lowered = run_passes(net(CASES["matmul"], preset, 64).quantized, LowerMatmulIntoMatmulNbits())
    assert attribute(find(lowered, "MatMulNBits"), "accuracy_level") == 4


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_left_alone(preset: str) -> None:
    model, each = net(CASES["matmul"], preset, 64).quantized.clone(), LowerMatmulIntoMatmulNbits()
    before = lines_of(model)
    assert not each(model).modified
    assert each.refusals == []
    assert lines_of(model) == before


def test_a_float_product_of_static_codes_is_lowered() -> None:
    text = """f (float[b,64] x, float w, float u) => (float[b,24] y)
    { m = MatMul (x, w)   y = MatMul (m, u) }"""
    rule = Rule(match="MatMul_y", preset="w4a16")
    found = staged(with_weights(text, w=(64, 64), u=(64, 24)), "w8a8", "ort", rules=(rule,))
    lowered = run_passes(found.quantized, LowerMatmulIntoMatmulNbits(), RemoveUnused())
    assert all(n.domain != "com.qcompile" for n in lowered.graph)
    assert run(lowered, found.feed)[0].shape == (4, 24)
