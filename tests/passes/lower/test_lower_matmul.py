# SPDX-License-Identifier: Apache-2.0
"""MatMul and Gemm become QMatMul."""

import onnx_ir as ir
import pytest

from qcompile.graph import attribute, constant, input_of
from qcompile.passes.lower.lower_matmul import LowerMatmul
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.recipe import Rule
from qcompile.step_tables import table_of_steps
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

CASES = {
    "matmul": "y = MatMul (x, w)",
    "bias": "m = MatMul (x, w)   y = Add (m, k)",
    "bias first": "m = MatMul (x, w)   y = Add (k, m)",
    "bias, relu": "m = MatMul (x, w)   a = Add (m, k)   y = Relu (a)",
    "relu": "m = MatMul (x, w)   y = Relu (m)",
    "gemm": "y = Gemm (x, w, k)",
    "gemm without bias": "y = Gemm (x, w)",
    "gemm, relu": "m = Gemm (x, w, k)   y = Relu (m)",
    "clip": "m = MatMul (x, w)   y = Clip (m, lo, hi)",
}
PRESETS = (
    "w8a8",
    "w3a5",
    "w8a8-dynamic",
    "w4a8-dynamic",
    "w4a4-dynamic",
    "w4a16",
    "w8a16",
    "w1a16",
)


def net(body: str, seed: int = 0, k: int = 40) -> ir.Model:
    """One product on x [b, k] with a weight of 24 outputs."""
    text = f"""f (float[b,{k}] x, float w, float k) => (float[b,24] y)
    <float lo = {{-0.5}}, float hi = {{0.5}}> {{ {body} }}"""
    return with_weights(text, seed, w=(k, 24), k=(24,))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_lowered(body: str, preset: str) -> None:
    for seed in (0, 1, 2):
        found = staged(net(body, seed), preset, edge_bits=1)
        lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
        assert "MatMul" not in ops(lowered)
        assert "Gemm" not in ops(lowered)
        assert {"Add", "Relu"}.isdisjoint(ops(lowered))
        has_bias = "k)" in body or "(k" in body
        bias = find(lowered, "QMatMul").inputs[2] if has_bias else None
        assert (bias is not None and constant(bias).shape == (24,)) == has_bias
        assert_lowered(found.quantized, lowered, found.feed)


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic", "w4a16"])
def test_stacks_of_rows(preset: str) -> None:
    text = """f (float[b,3,40] x, float w, float k) => (float[b,3,24] y)
    { m = MatMul (x, w)   y = Add (m, k) }"""
    found = staged(with_weights(text, w=(40, 24), k=(24,)), preset)
    lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
    assert "Add" not in ops(lowered)
    assert_lowered(found.quantized, lowered, found.feed)


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic", "w4a16"])
@pytest.mark.parametrize("add", ["Add (m, x)", "Add (m, m)"])
def test_an_add_that_is_no_bias_stays(preset: str, add: str) -> None:
    text = f"""f (float[b,8] x, float w) => (float[b,8] y)
    {{ m = MatMul (x, w)   y = {add} }}"""
    found = staged(with_weights(text, w=(8, 8)), preset)
    lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
    assert "Add" in ops(lowered)
    bias = constant(input_of(find(lowered, "QMatMul"), 2))
    assert bias is None or not bias.any()


def test_a_weight_of_two_products_is_stored_once() -> None:
    text = (
        """f (float[b,8] x, float w) => (float[b,8] y) { m = MatMul (x, w)   y = MatMul (m, w) }"""
    )
    for preset in ("w8a8", "w4a16"):
        found = staged(with_weights(text, w=(8, 8)), preset)
        lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
        first, second = [n for n in lowered.graph if n.op_type == "QMatMul"]
        assert first.inputs[1] is second.inputs[1]


def test_bias_shared_by_two_static_products() -> None:
    text = """f (float[b,8] x, float w, float u, float k) => (float[b,8] y)
    { m = MatMul (x, w)   a = Add (m, k)   n = MatMul (a, u)   y = Add (k, n) }"""
    found = staged(with_weights(text, w=(8, 8), u=(8, 8), k=(8,)))
    lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
    first, second = [n for n in lowered.graph if n.op_type == "QMatMul"]
    assert first.inputs[2] is not second.inputs[2]
    assert_lowered(found.quantized, lowered, found.feed, at_least=2)


def test_dynamic_clip_bounds() -> None:
    node = find(
        run_passes(staged(net(CASES["clip"]), "w8a8-dynamic").quantized, LowerMatmul()), "QMatMul"
    )
    assert (attribute(node, "clip_min"), attribute(node, "clip_max")) == (-0.5, 0.5)
    node = find(
        run_passes(staged(net(CASES["relu"]), "w8a8-dynamic").quantized, LowerMatmul()), "QMatMul"
    )
    assert (attribute(node, "clip_min"), attribute(node, "clip_max")) == (0.0, None)


@pytest.mark.parametrize("body", [CASES["matmul"], CASES["gemm"]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_static_codes_whose_output_stays_float(body: str, seed: int) -> None:
    found = staged(net(body, seed))
    model = found.quantized.clone()
    model.graph.outputs[0] = find(model, body.split()[2]).outputs[0]
    lowered = run_passes(model, LowerMatmul(), RemoveUnused())
    assert ops(lowered) == ["QuantizeLinear", "QMatMul"]
    assert attribute(find(lowered, "QMatMul"), "output") == "f32"
    assert_lowered(model, lowered, found.feed)


@pytest.mark.parametrize("preset", ["w8a16", "w4a16"])
@pytest.mark.parametrize("layer", ["MatMul_m", "MatMul_n", "MatMul_o"])
def test_a_float_product_among_static_ones_keeps_its_bias(preset: str, layer: str) -> None:
    text = """f (float[b,32] x, float w, float u, float v, float k) => (float[b,32] y)
    { m = MatMul (x, w)   a = Add (m, k)   n = MatMul (a, u)   c = Add (k, n)
      o = MatMul (c, v)   y = Add (o, k) }"""
    shapes = {"w": (32, 32), "u": (32, 32), "v": (32, 32), "k": (32,)}
    rule = Rule(match=layer, preset=preset)
    found = staged(with_weights(text, **shapes), "w8a8", rules=(rule,))
    lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
    products = [n for n in lowered.graph if n.op_type == "QMatMul"]
    assert [n.name for n in products] == ["MatMul_m", "MatMul_n", "MatMul_o"]
    kinds = [attribute(n, "activation") == "f32" for n in products]
    assert kinds == [n.name == layer for n in products]
    assert all(n.inputs[2] is not None for n in products)
    assert_lowered(found.quantized, lowered, found.feed, at_least=3)


@pytest.mark.parametrize(
    "body", [CASES["matmul"], CASES["gemm"], "t = Relu (w)   y = MatMul (x, t)"]
)
def test_a_float_product_is_no_candidate(body: str) -> None:
    each, model = LowerMatmul(), net(body)
    assert not each(model).modified
    assert each.refusals == []


@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
@pytest.mark.parametrize("gives_floats", [True, False])
def test_operands_by_time_step(preset: str, gives_floats: bool) -> None:
    text = (
        "f (float[b,16] x, int64[b] t, float w, float u, float k) => (float[b,8] y) "
        "{ h = MatMul (x, w)   r = Relu (h)   m = MatMul (r, u)   y = Add (m, k) }"
    )
    made = with_weights(text, w=(16, 12), u=(12, 8), k=(8,))
    found = staged(made, preset, timestep_input="t", gives_floats=gives_floats)
    lowered = run_passes(found.quantized, LowerMatmul(), RemoveUnused())
    products = [n for n in lowered.graph if n.op_type == "QMatMul"]
    tables = [table_of_steps(n.inputs[3]) for n in products]
    assert [t.rows.shape[1] for t in tables if t is not None] == [12, 8]
    assert [table_of_steps(n.inputs[2]) is None for n in products] == [True, False]
    assert_lowered(found.quantized, lowered, found.feed)
