# SPDX-License-Identifier: Apache-2.0
"""The weights of an LSTM become int8 codes of one scale an output of every direction."""

import numpy as np
import onnx_ir as ir
import pytest

from qcompile.errors import InputError
from qcompile.graph import constant
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.round_recurrent_weights import RoundRecurrentWeights
from qcompile.session import open_model, session_options
from tests.passes.graphs import lines_of
from tests.passes.stages import Staged, find, ops, run_passes, staged, with_weights

D, N, H, K = 2, 4 * 3, 3, 5
PARTS = ("codes", "scale")
TEXT = """f (float[4,b,5] x, float w, float r) => (float[4,2,b,3] y)
{ y = LSTM <hidden_size = 3, direction = "bidirectional"> (x, w, r) }"""
SHARED = """f (float[4,b,3] x, float w, float r) => (float[4,1,b,3] y)
{ m = LSTM <hidden_size = 3> (x, w, r)   o = Constant <value_ints = [1]> ()
  s = Squeeze (m, o)   y = LSTM <hidden_size = 3> (s, w, r) }"""


def net(preset: str = "w8a8") -> Staged:
    return staged(with_weights(TEXT, w=(D, N, K), r=(D, N, H)), preset)


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_every_weight_is_within_half_a_step(preset: str) -> None:
    """The largest of an output is code ±127; one code further is more than half a step off."""
    found = net(preset)
    model = run_passes(found.normalised, RoundRecurrentWeights(found.work, CodeStore(found.work)))
    assert ops(model) == ["DequantizeLinear", "Reshape"] * 2 + ["LSTM"]
    for index, name in ((1, "w"), (2, "r")):
        reshape = find(model, "LSTM").inputs[index].producer()
        codes, scale = (constant(v) for v in reshape.inputs[0].producer().inputs)
        raw = constant(found.normalised.graph.initializers[name])
        assert codes.dtype == np.int8
        assert np.array_equal(np.abs(codes).max(1), np.full(D * N, 127))
        for shift, is_near in ((0, True), (1, False)):
            real = ((codes + shift) * scale[:, None].astype(np.float64)).reshape(raw.shape)
            half = scale.reshape(D, N, 1) / 2 * (1 + 2.0**-20)  # the division rounds in f32
            assert (np.abs(real - raw) <= half).all() == is_near
        assert constant(reshape.inputs[1]).tolist() == list(raw.shape)


@pytest.mark.parametrize("preset", ["w8a16", "w8a4-dynamic"])
def test_other_presets_stay_float(preset: str) -> None:
    with pytest.raises(InputError, match=r"nothing to quantize(.|\n)*LSTM"):
        net(preset)


def test_weights_of_two_nodes_are_rounded_once() -> None:
    found = staged(with_weights(SHARED, w=(1, N, 3), r=(1, N, 3)), "w8a8-dynamic")
    assert sum(op == "DequantizeLinear" for op in ops(found.quantized)) == 2
    first, second = [n for n in found.quantized.graph if n.op_type == "LSTM"]
    assert first.inputs[1] is second.inputs[1] and first.inputs[2] is second.inputs[2]


def test_a_second_run_changes_nothing() -> None:
    found = net()
    store = CodeStore(found.work)
    model = run_passes(found.normalised, RoundRecurrentWeights(found.work, store))
    before = lines_of(model)
    assert not RoundRecurrentWeights(found.work, store)(model).modified
    assert lines_of(model) == before


def test_the_graph_is_the_float_one_with_rounded_weights() -> None:
    """Bit for bit that of an LSTM on the decoded codes, which is not that on the raw weights."""
    found = net()
    decoded = found.normalised.clone()
    for name in ("w", "r"):
        value = decoded.graph.initializers[name]
        codes, scale = (constant(found.quantized.graph.initializers[f"{name}_{p}"]) for p in PARTS)
        real = (codes * scale[:, None]).reshape(constant(value).shape)
        value.const_value = ir.tensor(real.astype(np.float32), name=name)
    models = found.quantized, decoded, found.normalised
    got, expected, raw = (
        open_model(model, session_options(optimise=False)).run(None, found.feed)[0]
        for model in models
    )
    assert np.array_equal(got, expected) and not np.array_equal(got, raw)
