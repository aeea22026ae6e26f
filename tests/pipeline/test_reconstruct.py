# SPDX-License-Identifier: Apache-2.0
"""Codes found again on the quantized network's own inputs: kept where held-out samples gain."""

from dataclasses import replace

import numpy as np
import pytest

from qcompile import reconstruct as module
from qcompile.graph import constant
from qcompile.reconstruct import reconstruct
from qcompile.tuned import Tuned
from qcompile.verify_tuned import check_tuned
from tests.pipeline.test_tune import Net, arrays

WORDS = ("sequential", "adaround", "adaquant", "distribution", "kfac", "light", "advanced")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch) -> None:
    monkeypatch.setattr(module, "STEPS", dict.fromkeys(module.STEPS, 300))


def rebuilt(net: Net, word: str, **recipe) -> Tuned:
    asked = replace(net.recipe, weight_rounding=word, **recipe)
    return reconstruct(net.quantized, net.model, net.plan, asked, net.data, net.division)


def checks(net: Net, tuned: Tuned) -> dict[str, bool]:
    made = check_tuned(net.model, net.quantized, tuned, net.division)
    return {check.rung: check.passed for check in made}


@pytest.fixture(scope="module")
def net() -> Net:
    """With the nearest codes, which all of them improve; descent leaves AdaRound little here."""
    return Net("w3a8", count=128, weight_rounding="nearest")


@pytest.mark.parametrize("word", WORDS)
def test_outputs_on_held_out_samples_are_nearer(net: Net, word: str) -> None:
    found = rebuilt(net, word)
    assert found.note.startswith(f"{word}: ")
    assert "layers gained on held-out samples; loss of the outputs 0." in found.note
    assert checks(net, found) == {"reconstruct: outputs": True}
    before, after = arrays(net.quantized), arrays(found.model)
    changed = {n for n, a in after.items() if not np.array_equal(a, before[n])}
    moves = any(n.endswith("_codes") and "bias" not in n for n in changed)
    assert moves == (word != "light")  # which moves scales and biases alone
    assert all(before[n].dtype == a.dtype and before[n].shape == a.shape for n, a in after.items())
    wrong = replace(found, model=net.quantized)
    assert checks(net, wrong) == {"reconstruct: outputs": True}  # a ratio of 1 is no worse
    worse = Tuned(net.quantized, "", found.held, found.losses, "reconstruct")
    turned = check_tuned(net.model, found.model, worse, net.division)
    assert not turned[0].passed


def test_biases_have_the_scales_of_their_products(net: Net) -> None:
    found = rebuilt(net, "adaquant")
    after = arrays(found.model)
    nodes = {n.name: n for n in found.model.graph}
    conv = next(n for n in nodes.values() if n.op_type == "Conv")
    x, w, bias = (v.producer() for v in conv.inputs)
    expected = constant(x.inputs[1]) * constant(w.inputs[1]).astype(np.float64)
    assert np.array_equal(after[bias.inputs[1].name], expected.astype(np.float32))


def test_the_same_seed_gives_the_same_numbers(net: Net) -> None:
    first, again, other = (rebuilt(net, "adaround", seed=s) for s in (0, 0, 1))
    same = arrays(first.model)
    assert all(np.array_equal(a, same[n]) for n, a in arrays(again.model).items())
    assert any(not np.array_equal(a, same[n]) for n, a in arrays(other.model).items())


def test_nothing_is_done_where_nothing_is_asked(net: Net) -> None:
    for word in ("nearest", "gptq", "descent"):
        assert rebuilt(net, word) == Tuned(net.quantized)
    data, net.data = net.data, None
    assert rebuilt(net, "sequential") == Tuned(net.quantized)
    net.data = data


def test_8_bits_stay() -> None:
    assert rebuilt(Net("w8a8"), "sequential").note.startswith("sequential: 0 of ")


def test_too_few_samples_and_too_little_memory(net: Net, monkeypatch) -> None:
    assert rebuilt(Net("w2a8", count=1), "adaround").note == "no adaround: too few samples"
    monkeypatch.setattr(module, "_FEWEST_ROWS", 10**9)
    assert rebuilt(net, "adaround").note.startswith("adaround: 0 of ")


def test_layers_are_counted(net: Net) -> None:
    seen: list[tuple[str, int, int]] = []
    data, net.data = net.data, replace(net.data, watch=lambda *step: seen.append(step))
    rebuilt(net, "sequential")
    net.data = data
    count = len(seen)
    assert count == 4
    assert seen == [("layers", i + 1, count) for i in range(count)]


MORE = """f (float[b,3,10,10] x, float w, float d, float m, float a, float k) => (float[b,5] y)
<float l = {0.0}, float u = {1.5}>
{ h = Conv <pads = [1,1,1,1]> (x, w)   r = Clip (h, l, u)
  e = Conv <pads = [1,1,1,1], group = 8> (r, d)   s = Relu (e)
  p = GlobalAveragePool (s)   f = Flatten (p)
  g = MatMul (f, m)   o = Add (g, a)   t = Relu (o)   y = MatMul (t, k) }"""
SHAPES = {"w": (8, 3, 3, 3), "d": (8, 1, 3, 3), "m": (8, 16), "a": (16,), "k": (16, 5)}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "preset",
    ["w3a4", "w2a16", pytest.param("w3a8", marks=SLOW), pytest.param("w2a8-dynamic", marks=SLOW)],
)
@pytest.mark.parametrize("word", WORDS)
def test_every_kind_of_product(preset: str, word: str) -> None:
    found = Net(preset, MORE, 128, SHAPES, weight_rounding="nearest")
    made = rebuilt(found, word)
    assert " layers gained on held-out samples" in made.note
    kept = {name: passed for name, passed in checks(found, made).items() if not passed}
    assert kept == {}
    layers = {
        each.float_node.op_type: each
        for each in module.layers_of(made.model, found.model, found.plan)
    }
    if preset != "w2a16":  # a16 leaves convolutions float
        conv = layers["Conv"]
        assert conv.bounds in ((0.0, 1.5), (0.0, np.inf))
        assert conv.bias() is not None
