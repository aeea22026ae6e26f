# SPDX-License-Identifier: Apache-2.0
"""DynamicQuantizeLSTM means what LSTM means on the dequantized weights.

One step on numbers that the op's own quantizer holds exactly, so that only f32 roundings are left.
"""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from qcompile.graph import constant
from qcompile.passes.lower.lower_lstm_into_dynamic_quantize_lstm import (
    LowerLstmIntoDynamicQuantizeLstm,
)
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.session import open_model, session_options
from tests.passes.stages import Staged, find, ops, run_passes, staged, with_weights

B, K, H = 3, 5, 4
UNIT = 2.0**-23
ACTIVATIONS = '["HardSigmoid", "Relu", "Tanh", "Sigmoid", "Tanh", "Relu"]'
OPTIONS = {
    "plain": ("", ""),
    "bias": ("b", ""),
    "lengths": ("b, n", ""),
    "states": ("b, , h, c", ""),
    "peepholes": ("b, n, h, c, p", ""),
    "clip": ("b", ", clip = 0.25"),
    "activations": ("b", f", activations = {ACTIVATIONS}"),
    "input_forget": ("b", ", input_forget = 1"),
}


def exact(rng: np.random.Generator, *dims: int, unit: float = 2.0**-6) -> NDArray[np.float32]:
    """Multiples of the unit from −100 to 155 units, both in every row.

    So the op's scale is the unit, however it cuts a state in rows for its threads.
    """
    codes = rng.integers(-100, 156, dims)
    codes[..., 0], codes[..., 1] = -100, 155
    return (codes * unit).astype(np.float32)


def net(optional: str, attributes: str, *, seed: int = 0) -> Staged:
    """A bidirectional LSTM of one step after transform; its states are constants."""
    text = f"""f (float[1,{B},{K}] x, float w, float r, float b, float n, float h, float c, float p)
    => (float[1,2,{B},{H}] y, float[2,{B},{H}] yh, float[2,{B},{H}] yc)
    {{ y, yh, yc = LSTM <hidden_size = {H}, direction = "bidirectional"{attributes}>
      ({f"x, w, r, {optional}".rstrip(", ")}) }}"""
    weights = {"w": (2, 4 * H, K), "r": (2, 4 * H, H), "b": (2, 8 * H), "p": (2, 3 * H)}
    model = with_weights(text, seed, **weights, n=(B,), h=(2, B, H), c=(2, B, H))
    rng = np.random.default_rng(seed)
    set_constant(model, "n", np.array([1, 1, 0], np.int32))
    set_constant(model, "h", exact(rng, 2, B, H, unit=2.0**-8))
    found = staged(model, "w8a8-dynamic")
    found.feed["x"] = exact(rng, 1, B, K)
    return found


def set_constant(model: ir.Model, name: str, array: NDArray) -> None:
    """An initializer's array and its type."""
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(array, name=name)
    value.type = ir.TensorType(value.const_value.dtype)


def lowered(found: Staged) -> ir.Model:
    return run_passes(found.quantized, LowerLstmIntoDynamicQuantizeLstm(), RemoveUnused())


def bound(found: Staged) -> float:
    """Roundings of one step, in the order of the gates, the cell state and the output.

    A gate is a sum of `terms` numbers, whose magnitudes add up to `total`, and a function of slope
    ≤ 1 that is good to 8 units. Gates but Relu's are ≤ 1; that one, and the candidate, ≤ total. So
    the cell state is ≤ |c| + total, and its error and the output's at most that many gates' errors.
    """
    held = {v.name: constant(v) for v in found.normalised.graph.initializers.values()}
    peaks = {name: float(np.abs(held[name]).max()) if name in held else 0.0 for name in "bcp"}
    total = 2 * peaks["b"] + peaks["p"] * (peaks["c"] + 1)
    total += float((np.abs(held["w"]) @ np.abs(found.feed["x"][0]).T).max())
    if "h" in held:
        total += float((np.abs(held["r"]) @ np.abs(held["h"]).transpose(0, 2, 1)).max())
    terms = K + H + 3
    gate = (terms * total + 8) * UNIT
    return 2 * gate * (peaks["c"] + total + 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_one_step(name: str, seed: int) -> None:
    found = net(*OPTIONS[name], seed=seed)
    model, limit = lowered(found), bound(found)
    assert ops(model) == ["DynamicQuantizeLSTM"]
    expected = open_model(found.quantized, session_options(optimise=False)).run(None, found.feed)
    got = open_model(model).run(None, found.feed)
    for a, b in zip(expected, got, strict=True):
        assert np.abs(a - b).max() <= limit
    shifted = open_model(with_one_code_shifted(model)).run(None, found.feed)
    gaps = [float(np.abs(a - b).max()) for a, b in zip(expected, shifted, strict=True)]
    assert max(gaps) > limit


def with_one_code_shifted(model: ir.Model) -> ir.Model:
    """The same, with one code of every output of W one further."""
    copy = model.clone()
    value = find(copy, "DynamicQuantizeLSTM").inputs[1]
    codes = value.const_value.numpy().copy()
    codes[:, 0, :] = np.where(codes[:, 0, :] < 128, codes[:, 0, :] + 1, codes[:, 0, :] - 1)
    value.const_value = ir.tensor(codes, name=value.name)
    return copy
