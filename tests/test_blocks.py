# SPDX-License-Identifier: Apache-2.0
"""Blocks are found from cut to cut, and rebuilt where held-out samples gain."""

import numpy as np
import pytest

from qcompile import rebuild_blocks as module
from qcompile.blocks import blocks_of
from qcompile.rebuild_blocks import Rounded
from qcompile.reverse import Tape, spec_of
from qcompile.tuned import Tuned, outputs_ratio
from qcompile.verify_compensated import written_weight
from tests.pipeline.test_reconstruct import MORE, SHAPES, checks, rebuilt
from tests.pipeline.test_tune import Net, arrays


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("w2a8", count=128, weight_rounding="nearest")


def test_a_shortcut_stays_inside_a_block(net: Net) -> None:
    tape = Tape.of(net.quantized.clone(), net.plan)
    found = blocks_of(tape, net.model)
    assert [(b.output, b.layers) for b in found] == [
        ("r", ("h",)),
        ("s", ("e",)),  # the Conv, the Add of its input, the Relu
        ("f", ("i",)),  # the pool has no product
        ("y", ()),
    ]
    assert [b.tape.entries for b in found] == [["x"], ["r"], ["s"], ["f"]]
    assert [s.output for b in found for s in b.tape.steps] == [s.output for s in tape.steps]


def test_layers_of_a_dense_product_are_its_sums_with_the_bias() -> None:
    other = Net("w3a8", MORE, 64, SHAPES, weight_rounding="nearest")
    found = blocks_of(Tape.of(other.quantized.clone(), other.plan), other.model)
    layers = [b.layers for b in found]
    assert ("o",) in layers  # g, and the vector added to it
    assert all("g" not in each for each in layers)


def test_blocks_together_are_the_network(net: Net) -> None:
    tape = Tape.of(net.quantized.clone(), net.plan)
    leaves = {n: each.real() for n, each in module.tunables(tape).items()}
    values = {"x": net.data.feeds[0]["x"]}
    whole = tape.run(leaves, values)["y"]
    for block in blocks_of(tape, net.model):
        values |= block.tape.run(leaves, {n: values[n] for n in block.tape.entries})
    assert np.array_equal(values["y"], whole)


def test_a_weight_begins_at_its_code(net: Net) -> None:
    tape = Tape.of(net.quantized.clone(), net.plan)
    for each in module.weights_of(tape, net.model):
        node = tape.weights[each.leaf]
        rounded = Rounded.of(node, each.real, is_signed=True)
        codes = module.constant(node.inputs[0])
        start = written_weight(node, codes, spec_of(node))
        assert np.array_equal(rounded.levels.codes(rounded.levels.share >= 0.5), start.codes)


def test_outputs_on_held_out_samples_are_nearer(net: Net) -> None:
    found = rebuilt(net, "blocks")
    assert "blocks gained on held-out samples; loss of the outputs 0." in found.note
    assert checks(net, found) == {"reconstruct: outputs": True}
    before, after = arrays(net.quantized), arrays(found.model)
    changed = {n for n, a in after.items() if not np.array_equal(a, before[n])}
    assert any(n.endswith("_codes") and "bias" not in n for n in changed)
    assert all(before[n].dtype == a.dtype and before[n].shape == a.shape for n, a in after.items())
    worse = Tuned(net.quantized, "", found.held, found.losses, "reconstruct")
    assert not outputs_ratio(net.model, found.model, worse, net.division) < 1


def test_the_layers_count(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the codes are others; the same seed gives the same ones."""
    first, again = rebuilt(net, "blocks"), rebuilt(net, "blocks")
    monkeypatch.setattr(module, "_LAYERS", 0.0)
    alone = arrays(rebuilt(net, "blocks").model)
    same = arrays(again.model)
    assert all(np.array_equal(a, same[n]) for n, a in arrays(first.model).items())
    assert any(not np.array_equal(a, alone[n]) for n, a in arrays(first.model).items())


def test_why_nothing_is_rebuilt(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Net("w2a8", count=1, weight_rounding="nearest")
    assert rebuilt(few, "blocks").note == (
        "no blocks: it needs samples of one shape and a free batch"
    )
    monkeypatch.setattr(module, "_COPIES", 10**12)
    assert rebuilt(net, "blocks").note == "no blocks: a block larger than the memory"
    other = Net("w3a8", MORE.replace("t = Relu (o)", "t = Sin (o)"), 64, SHAPES)
    assert "Sin has no gradient here" in rebuilt(other, "blocks").note
    data, net.data = net.data, None
    assert rebuilt(net, "blocks") == Tuned(net.quantized)
    net.data = data


@pytest.mark.parametrize("preset", ["w3a4", "w2a8-dynamic", "w2a16"])
def test_every_kind_of_product(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", dict.fromkeys(module.STEPS, 60))
    found = Net(preset, MORE, 128, SHAPES, weight_rounding="nearest")
    made = rebuilt(found, "blocks")
    assert " blocks gained on held-out samples" in made.note
    assert all(checks(found, made).values())
