# SPDX-License-Identifier: Apache-2.0
"""Biases of static products become int32 codes (N7)."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.passes.transform.round_bias import RoundBias
from qcompile.step_tables import table_of_steps
from tests.passes.graphs import lines_of
from tests.passes.stages import Staged, find, staged, with_weights

CASES = {
    "conv": ("float[b,4,6,6]", "y = Conv (x, w, k)", (4, 4, 1, 1)),
    "gemm": ("float[b,4]", "y = Gemm (x, w, k)", (4, 4)),
    "matmul": ("float[b,4]", "m = MatMul (x, w)   y = Add (m, k)", (4, 4)),
    "bias first": ("float[b,4]", "m = MatMul (x, w)   y = Add (k, m)", (4, 4)),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def net(case: tuple, preset: str = "w8a8") -> Staged:
    """One product; bias correction off, so that the bias is the model's."""
    dims, body, shape = case
    text = f"f ({dims} x, float w, float k) => ({dims} y) {{ {body} }}"
    return staged(with_weights(text, w=shape, k=(4,)), preset, bias_correction=False)


@EACH
def test_codes_are_within_half_a_step(case: tuple) -> None:
    found = net(case)
    (back,) = [n for n in found.quantized.graph if n.name.endswith("_bias/dequantize")]
    codes, scale = (constant(v) for v in back.inputs)
    bias = constant(found.normalised.graph.initializers["k"])
    assert codes.dtype == np.int32
    half = scale.astype(np.float64) / 2
    # The f32 scale that QDQ stores is off by 2^-24 of the f64 product, which the code multiplies.
    limit = half * (1 + 2 * np.abs(codes) * 2.0**-24)
    assert (np.abs(codes * scale.astype(np.float64) - bias) <= limit).all()
    assert (np.abs((codes + 1) * scale.astype(np.float64) - bias) >= half).all()
    weight = next(
        n
        for n in found.quantized.graph
        if "w" in n.name
        and n is not back
        and n.op_type == "DequantizeLinear"
        and n.outputs[0].metadata_props
    )
    x_scale = found.work.params("x").scale
    expected = np.float32(x_scale * constant(weight.inputs[1]).astype(np.float64))
    assert np.array_equal(scale, expected)


@EACH
@pytest.mark.parametrize("preset", ["w8a8-dynamic"])
def test_left_alone_because_dynamic(case: tuple, preset: str) -> None:
    found = net(case, preset)
    assert not any(n.name.endswith("_bias/dequantize") for n in found.quantized.graph)
    assert "k" in found.quantized.graph.initializers


@EACH
def test_a_second_run_changes_nothing(case: tuple) -> None:
    found = net(case)
    model = found.quantized.clone()
    before = lines_of(model)
    each = RoundBias(found.work, None)  # type: ignore[arg-type]
    assert not each(model).modified
    assert lines_of(model) == before


def test_left_alone_because_it_is_no_bias() -> None:
    text = """f (float[b,4] x, float w) => (float[b,4] y) { m = MatMul (x, w)   y = Add (m, x) }"""
    found = staged(with_weights(text, w=(4, 4)))
    assert not any(n.name.endswith("_bias/dequantize") for n in found.quantized.graph)
    assert find(found.quantized, "Add").inputs[0].producer().op_type == "DequantizeLinear"


@EACH
def test_codes_of_every_time_step(case: tuple) -> None:
    """Rows of tables, each the codes of that step's scale (N7)."""
    dims, body, shape = case
    text = f"f ({dims} x, int64[b] t, float w, float k) => ({dims} y) {{ {body} }}"
    made = with_weights(text, w=shape, k=(4,))
    found = staged(made, bias_correction=False, timestep_input="t")
    (back,) = [n for n in found.quantized.graph if n.name.endswith("_bias/dequantize")]
    codes, scales = (table_of_steps(v) for v in back.inputs)
    steps, bias = found.work.params("x").steps, constant(found.normalised.graph.initializers["k"])
    assert codes is not None and scales is not None and steps is not None
    assert codes.rows.dtype == np.int32 and len(codes.rows) == len(steps) > 1
    reals = codes.rows * scales.rows.astype(np.float64)
    limit = scales.rows.astype(np.float64) / 2 * (1 + 2 * np.abs(codes.rows) * 2.0**-24)
    assert (np.abs(reals - bias) <= limit).all()
    ratio = scales.rows / scales.rows[:1]
    np.testing.assert_allclose(ratio, (steps / steps[0])[:, None].repeat(4, 1), rtol=3e-7)
