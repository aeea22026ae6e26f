# SPDX-License-Identifier: Apache-2.0
"""Weights become a Dequantize of codes."""

import numpy as np
import pytest

from qcompile.graph import constant
from qcompile.observers.weight_range import code_weight
from qcompile.passes.transform.code_store import CodeStore, as_matrix, scale_method
from qcompile.passes.transform.round_weights import RoundWeights
from qcompile.recipe import Rule
from tests.passes.graphs import lines_of
from tests.passes.stages import Staged, _custom, _linear, ops, run_passes, staged, with_weights

CONV = ("f (float[b,4,6,6] x, float w) => (float[b,4,6,6] y) { y = Conv (x, w) }", (4, 4, 1, 1))
MATMUL = ("f (float[b,40] x, float w) => (float[b,8] y) { y = MatMul (x, w) }", (40, 8))
GATHER = ("f (int64[b] x, float w) => (float[b,40] y) { y = Gather (w, x) }", (5, 40))


def net(case: tuple[str, tuple[int, ...]], preset: str, **recipe: object) -> Staged:
    """One weighted node."""
    return staged(with_weights(case[0], w=case[1]), preset, edge_bits=1, **recipe)


@pytest.mark.parametrize(
    ("case", "preset"),
    [
        (CONV, "w8a8"),
        (CONV, "w3a8-dynamic"),
        (MATMUL, "w8a8"),
        (MATMUL, "w4a8-dynamic"),
        (MATMUL, "w1a16"),
        (MATMUL, "w5a16"),
        (GATHER, "w4a16"),
        (GATHER, "w8a16"),
    ],
)
def test_the_dequantized_weight_is_that_of_code_weight(case: tuple, preset: str) -> None:
    found = net(case, preset)
    model = run_passes(found.normalised, RoundWeights(found.work, CodeStore(found.work)))
    (plan,) = found.plan.nodes.values()
    back = next(n for n in model.graph if n.op_type.startswith("Dequantize"))
    assert back.outputs[0].metadata_props["qcompile.spec"] == str(plan.weight)
    raw = found.normalised.graph.initializers[plan.weight_name].const_value
    method = scale_method(plan.weight, None)
    weight = code_weight(as_matrix(raw), plan.weight, method)
    inputs = [constant(v) for v in back.inputs]
    real = _custom(back, inputs)[0] if back.domain else _linear(back, inputs)
    assert np.array_equal(real.reshape(weight.shape).astype(np.float32), weight.decode())
    assert back.domain == ("com.qcompile" if plan.weight.granularity == "block" else "")


def test_a_weight_of_two_nodes_is_rounded_once() -> None:
    text = "f (float[b,8] x, float w) => (float[b,8] y) { m = MatMul (x, w)   y = MatMul (m, w) }"
    found = staged(with_weights(text, w=(8, 8)), "w4a16")
    model = run_passes(found.normalised, RoundWeights(found.work, CodeStore(found.work)))
    assert sum(op.startswith("Dequantize") for op in ops(model)) == 1
    first, second = [n for n in model.graph if n.op_type == "MatMul"]
    assert first.inputs[1].producer().inputs[0] is second.inputs[1].producer().inputs[0]


def test_other_readers_keep_the_float_weight() -> None:
    text = """f (float[b,4,6,6] x, float[4,4,1,1] s, float w)
    => (float[b,4,6,6] y, float[4,4,1,1] z)
    { y = Conv (x, w)   z = Mul (w, s) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1)), "w8a8-dynamic")
    mul, conv = (next(n for n in found.quantized.graph if n.op_type == t) for t in ("Mul", "Conv"))
    assert mul.inputs[0] is found.quantized.graph.initializers["w"]
    assert conv.inputs[1].producer().op_type == "DequantizeLinear"


def test_a_second_run_changes_nothing() -> None:
    found = net(MATMUL, "w4a16")
    store = CodeStore(found.work)
    model = run_passes(found.normalised, RoundWeights(found.work, store))
    before = lines_of(model)
    assert not RoundWeights(found.work, store)(model).modified
    assert lines_of(model) == before


def test_left_alone_because_the_plan_leaves_it_in_float() -> None:
    text = """f (float[b,8] x, float w, float u) => (float[b,8] y)
    { m = MatMul (x, w)   y = MatMul (m, u) }"""
    rule = Rule(match="MatMul_y", exclude=True)
    found = staged(with_weights(text, w=(8, 8), u=(8, 8)), "w8a8", rules=(rule,))
    assert found.plan.nodes["MatMul_y"].reason == "excluded by recipe"
    model = run_passes(found.normalised, RoundWeights(found.work, CodeStore(found.work)))
    assert sum(op.startswith("Dequantize") for op in ops(model)) == 1


def test_weights_above_the_budget_are_read_back_from_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qcompile.memory.Budget.kept_bytes", 1)
    text = """f (float[b,8] x, float w, float u) => (float[b,8] y)
    { m = MatMul (x, w)   y = MatMul (m, u) }"""
    small = staged(with_weights(text, w=(8, 8), u=(8, 8)), "w4a16")
    monkeypatch.undo()
    assert lines_of(small.quantized) == lines_of(
        staged(with_weights(text, w=(8, 8), u=(8, 8)), "w4a16").quantized
    )
