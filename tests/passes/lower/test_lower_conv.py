# SPDX-License-Identifier: Apache-2.0
"""Conv becomes QConv between two transposes."""

import numpy as np
import pytest

from qcompile.graph import attribute, constant
from qcompile.passes import LOWER_CPU
from qcompile.passes.lower.lower_conv import LowerConv
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.step_tables import table_of_steps
from tests.passes.graphs import lines_of
from tests.passes.stages import assert_lowered, find, ops, run_passes, staged, with_weights

X, Y = "f (float[b,4,6,6] x, float w, float k)", "(float[b,n,h,v] y)"
CASES = {
    "plain": ("y = Conv (x, w, k)", (8, 4, 3, 3)),
    "no bias": ("z = Neg (k)   y = Conv (x, w)", (8, 4, 3, 3)),
    "relu": ("c = Conv <pads = [1,1,1,1]> (x, w, k)   y = Relu (c)", (8, 4, 3, 3)),
    "strides": ("y = Conv <strides = [2,1], pads = [0,1,2,1]> (x, w, k)", (8, 4, 3, 2)),
    "dilations": ("y = Conv <dilations = [2,1]> (x, w, k)", (8, 4, 2, 3)),
    "groups": ("y = Conv <group = 2> (x, w, k)", (8, 2, 3, 3)),
    "depthwise": ("y = Conv <group = 4, pads = [1,1,1,1]> (x, w, k)", (4, 1, 3, 3)),
    "two a channel": ("y = Conv <group = 4> (x, w, k)", (8, 1, 3, 3)),
    "clip": ("c = Conv (x, w, k)   y = Clip (c, lo, hi)", (8, 4, 1, 1)),
}
EACH = pytest.mark.parametrize(("body", "shape"), CASES.values(), ids=CASES)


def net(body: str, shape: tuple[int, ...], seed: int = 0):  # type: ignore[no-untyped-def]
    """A graph of one Conv."""
    text = f"{X} => {Y} <float lo = {{0}}, float hi = {{0.5}}> {{ {body} }}"
    return with_weights(text, seed, w=shape, k=shape[:1])


@EACH
@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
def test_static(body: str, shape: tuple[int, ...], preset: str) -> None:
    found = staged(net(body, shape), preset)
    lowered = run_passes(found.quantized, LowerConv(), RemoveUnused())
    start = ["QuantizeLinear"] + ["Clip"] * (preset == "w4a4")
    assert ops(lowered) == [*start, "Transpose", "QConv", "Transpose", "DequantizeLinear"]
    conv = find(lowered, "QConv")
    assert attribute(conv, "activation") == "static"
    assert attribute(conv, "y_max") <= (15 if preset == "w4a4" else 255)
    assert constant(conv.inputs[1]).shape == (shape[0], np.prod(shape[1:]))
    assert_lowered(found.quantized, lowered, found.feed)


@EACH
@pytest.mark.parametrize("preset", ["w8a8-dynamic", "w4a4-dynamic"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dynamic(body: str, shape: tuple[int, ...], preset: str, seed: int) -> None:
    found = staged(net(body, shape, seed), preset)
    lowered = run_passes(found.quantized, LowerConv(), RemoveUnused())
    assert ops(lowered) == ["Transpose", "QConv", "Transpose"]
    assert_lowered(found.quantized, lowered, found.feed)


def test_relu_is_y_min_and_clip_both() -> None:
    for body, high in ((CASES["relu"][0], 255), (CASES["clip"][0], None)):
        found = staged(net(body, (8, 4, 1, 1)))
        conv = find(run_passes(found.quantized, LowerConv()), "QConv")
        assert attribute(conv, "y_min") == attribute(conv, "y_zero_point") == 0
        assert high is None or attribute(conv, "y_max") == high


def test_a_conv_that_is_read_twice_keeps_its_relu() -> None:
    text = """f (float[b,4,6,6] x, float w) => (float[b,4,6,6] y, float[b,4,6,6] z)
    { c = Conv (x, w)   y = Relu (c)   z = Neg (c) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1)))
    lowered = run_passes(found.quantized, LowerConv(), RemoveUnused())
    assert ops(lowered).count("Relu") == 1
    assert_lowered(found.quantized, lowered, found.feed)


def test_an_output_that_is_also_read() -> None:
    text = """f (float[b,4,6,6] x, float w, float u) => (float[b,4,6,6] y, float[b,4,6,6] z)
    { c = Conv (x, w)   y = Relu (c)   z = Conv (y, u) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1)))
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert [v.name for v in lowered.graph.outputs] == ["y", "z"]
    assert_lowered(found.quantized, lowered, found.feed, at_least=2)


def test_an_input_that_is_also_an_output() -> None:
    text = (
        "f (float[b,4,6,6] x, float w) => (float[b,4,6,6] x, float[b,4,6,6] y) { y = Conv (x, w) }"
    )
    model = with_weights(text, w=(4, 4, 1, 1))
    model.graph.outputs[0] = model.graph.inputs[0]
    found = staged(model)
    lowered = run_passes(found.quantized, *LOWER_CPU())
    assert [v.name for v in lowered.graph.inputs] == ["x"]
    assert [v.name for v in lowered.graph.outputs] == ["x", "y"]
    assert_lowered(found.quantized, lowered, found.feed)


def test_a_weight_of_two_convs_is_stored_once() -> None:
    text = """f (float[b,4,6,6] x, float w) => (float[b,4,6,6] y)
    { c = Conv (x, w)   y = Conv (c, w) }"""
    found = staged(with_weights(text, w=(4, 4, 1, 1)))
    lowered = run_passes(found.quantized, LowerConv())
    convs = [n for n in lowered.graph if n.op_type == "QConv"]
    assert convs[0].inputs[1] is convs[1].inputs[1]
    assert_lowered(found.quantized, lowered, found.feed, at_least=2)


@pytest.mark.parametrize(
    ("index", "reason"),
    [(0, "its activations are not quantized"), (2, "its bias has no codes")],
    ids=["input", "bias"],
)
def test_left_alone_because_an_input_is_float(index: int, reason: str) -> None:
    found = staged(net(*CASES["plain"]))
    model = found.quantized.clone()
    find(model, "Conv").replace_input_with(index, model.graph.inputs[0])
    before, each = lines_of(model), LowerConv()
    assert not each(model).modified
    assert [r.reason for r in each.refusals] == [reason]
    assert lines_of(model) == before


@EACH
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_static_with_a_float_output(body: str, shape: tuple[int, ...], seed: int) -> None:
    found = staged(net(body, shape, seed))
    model = found.quantized.clone()
    model.graph.outputs[0] = find(model, "Conv").outputs[0]
    lowered = run_passes(model, LowerConv(), RemoveUnused())
    assert ops(lowered) == ["QuantizeLinear", "Transpose", "QConv", "Transpose"]
    assert attribute(find(lowered, "QConv"), "output") == "f32"
    assert_lowered(model, lowered, found.feed)


def test_a_float_conv_is_no_candidate() -> None:
    each, model = LowerConv(), net(*CASES["plain"])
    assert not each(model).modified
    assert each.refusals == []


@EACH
@pytest.mark.parametrize("preset", ["w8a8", "w4a4"])
def test_operands_by_time_step(body: str, shape: tuple[int, ...], preset: str) -> None:
    """Multiplier and bias are rows of tables [T, N]: those of the scales of every bucket."""
    text = f"{X}, int64[b] t => {Y} <float lo = {{0}}, float hi = {{0.5}}> {{ {body} }}"
    text = text.replace("float k), int64[b] t", "float k, int64[b] t)")
    made = with_weights(text, w=shape, k=shape[:1])
    found = staged(made, preset, timestep_input="t", gives_floats=True)
    lowered = run_passes(found.quantized, LowerConv(), RemoveUnused())
    conv = find(lowered, "QConv")
    bias, table = (table_of_steps(conv.inputs[i]) for i in (2, 3))
    assert bias is not None and table is not None and found.work.stats.buckets is not None
    assert table.rows.shape == bias.rows.shape == (found.work.stats.buckets.count, shape[0])
    assert_lowered(found.quantized, lowered, found.feed)
