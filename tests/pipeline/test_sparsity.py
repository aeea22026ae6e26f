# SPDX-License-Identifier: Apache-2.0
"""`--sparsity 2:4`: two of every four weights, packed, run, verified; with any rounding."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile.errors import InputError
from qcompile.graph import constant
from qcompile.improve import improve
from qcompile.layouts import n16k4s
from qcompile.observers.kept_weights import kept_weights
from qcompile.observers.weight_range import code_weight
from qcompile.pack import weight_of_packed
from qcompile.passes.transform.rounding import ROUNDINGS, quantize
from qcompile.passes.transform.saliency_rank import error_of, saliency_rank
from qcompile.recipe import WEIGHT_ROUNDINGS, Recipe
from qcompile.sparsity import check_sparse
from qcompile.spec import QuantSpec
from tests.pipeline.nets import cnn, mlp, samples
from tests.pipeline.test_tune import Net

TEXT = """f (float[b,3,10,10] x, float w, float v, float c) => (float[b,24] y)
{ f = Flatten (x)   h = MatMul (f, w)   r = Relu (h)   g = MatMul (r, v)   y = Add (g, c) }"""
SOON = ("gptq", "descent", "adaround")  # the others with the slow tests
SHAPES = {"w": (300, 32), "v": (32, 24), "c": (24,)}


def compiled(preset: str, folder: Path, data: bool = True, **recipe) -> qcompile.Artifact:
    net = mlp()
    asked = Recipe(preset, edge_bits=2, effort="quick", **recipe)
    given = samples(net) if data else None
    path = net.save(folder / "m.onnx")
    return qcompile.compile(path, recipe=asked, calibration_data=given, force=True)


@pytest.mark.parametrize("preset", ["w4a16", "w4a8-dynamic", "w4a8", "w3a16"])
def test_sparse_weights_run_from_their_layout(preset: str, tmp_path: Path) -> None:
    plain = compiled(preset, tmp_path)
    found = compiled(preset, tmp_path, sparsity="2:4")
    rows, dense = found.content["nodes"], plain.content["nodes"]
    assert {r["layout"] for r in rows} == {"n16k4s/1"}
    assert all(r["weight"].endswith("/2:4") for r in rows)
    bits = 4 if preset.startswith("w4") else 3
    for row, other in zip(rows, dense, strict=True):
        saved = row["elements"] * (bits / 2 - 1) / 8
        assert other["packed_bytes"] - row["packed_bytes"] == saved
    checks = {c["rung"]: c for c in found.measured["checks"]}
    assert checks["transform: sparse weights"]["measured"] == 2
    assert "2:4 sparsity: 3 weights of 3" in found.content["notes"]
    for node in found.model().graph:
        if node.op_type == "QMatMul":
            there = weight_of_packed(node).values() != 0
            assert there.reshape(len(there), -1, 4).sum(2).max() <= 2
    session = qcompile.load(found.folder, trust_library=True)
    assert all(np.isfinite(y).all() for y in session.run(None, samples(mlp())))


def test_data_chooses_better_and_a_part_helps(tmp_path: Path) -> None:
    """Without data magnitudes decide, with it Wanda; a low-rank part gains on top."""
    kinds: list[dict] = [{"data": False}, {"weight_rounding": "nearest"}, {"low_rank": 0.2}]
    found = [compiled("w4a16", tmp_path, sparsity="2:4", **kind) for kind in kinds]
    levels = [each.measured["sqnr_db"] for each in found]
    assert levels[0] < levels[1] < levels[2]


def test_descent_makes_up_for_what_is_left_out() -> None:
    """Output error on held-out inputs: magnitudes > Wanda's choice > GPTQ > descent."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((48, 96)).astype(np.float32)
    mixed = np.eye(96) + 0.3 * rng.standard_normal((96, 96)) / np.sqrt(96)
    x = rng.standard_normal((2000, 96)) * np.exp(rng.standard_normal(96)) @ mixed
    x = x.astype(np.float32)
    hessian, held = (x[:1600].T @ x[:1600] / 1600)[None], x[1600:, None, :]
    for text in ("int4/axis(axis=0)/sym/f32/2:4", "uint4/block(axis=1,size=32)/asym/f16/2:4"):
        spec = QuantSpec.parse(text)
        assert str(spec) == text
        words = ("nearest", "gptq", "descent")
        found = [quantize(weight, hessian, spec, held, rounding=ROUNDINGS[w]) for w in words]
        assert all(n16k4s.holds(each.weight) for each in found)
        errors = [found[0].nearest_error, *(each.error for each in found)]
        assert errors == sorted(errors, reverse=True) and len(set(errors)) == 4


@pytest.mark.parametrize(
    "rounding",
    [
        pytest.param(word, marks=[] if word in SOON else [pytest.mark.slow])
        for word in WEIGHT_ROUNDINGS
        if word != "nearest"
    ],
)
def test_every_rounding_keeps_zeros(rounding: str) -> None:
    net = Net("w4a8", TEXT, 64, SHAPES, sparsity="2:4", weight_rounding=rounding, effort="quick")
    _, changed = improve(*(net.quantized, net.model, net.plan, net.recipe, net.data, net.division))
    for model in (net.quantized, changed.model):
        (check,) = check_sparse(model)
        assert check.passed and check.measured == 2 and check.count == 2


def test_verify_sees_a_third_weight() -> None:
    net = Net("w4a16", TEXT, 64, SHAPES, sparsity="2:4")
    spoilt = net.quantized.clone()
    held = spoilt.graph.initializers["w_nk_codes"]
    codes = constant(held).copy()
    point = constant(spoilt.graph.initializers["w_nk_zero_point"])
    codes[3, 8:11] = (point[3, 0] + 3) % 8
    held.const_value = ir.tensor(codes, name="w_nk_codes")
    (check,) = check_sparse(spoilt)
    assert check.measured == 3 and not check.passed


def test_what_stays_dense(tmp_path: Path) -> None:
    net = cnn()
    recipe = Recipe("w4a8", sparsity="2:4", effort="quick")
    path = net.save(tmp_path / "m.onnx")
    found = qcompile.compile(path, recipe=recipe, calibration_data=samples(net))
    (note,) = (n for n in found.content["notes"] if n.startswith("2:4 sparsity: 0 weights of 4"))
    assert "3 of a Conv, whose columns change their order when they are packed" in note
    assert "1 of int8: sparse codes have 3 or 4 bits and one that is 0, and none that" in note
    with pytest.raises(InputError, match="target ort has no layout that leaves weights out"):
        qcompile.compile(path, recipe=recipe, target="ort", force=True)
    with pytest.raises(InputError, match='unknown sparsity "1:4"'):
        Recipe(sparsity="1:4")


def test_the_largest_stay() -> None:
    rng = np.random.default_rng(0)
    weight, sizes = rng.standard_normal((6, 23)), np.exp(rng.standard_normal((2, 23)))
    kept = kept_weights(weight.astype(np.float32), sizes.astype(np.float32))
    score = np.abs(weight) * np.repeat(sizes, 3, 0)
    for row, found in zip(score, kept, strict=True):
        for first in range(0, 23, 4):
            four, here = row[first : first + 4], found[first : first + 4]
            assert here.sum() == min(2, len(four))
            assert four[here].min() >= max(four[~here], default=0)


def test_none_then_the_plain_part_then_the_weighted_one() -> None:
    """SLiM's check at 4 bits and 2:4: output error without a part, with that of the plain SVD, with
    that of the sizes of the inputs, which have log-normal channels.
    """
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((64, 96)).astype(np.float32)
        x = (rng.standard_normal((400, 1, 96)) * np.exp(rng.standard_normal(96))).astype(np.float32)
        given, held = x[:300, 0], x[300:]
        second = np.square(given).mean(0)
        spec = QuantSpec.parse("int4/axis(axis=0)/sym/f32/2:4")
        kept = kept_weights(weight, np.sqrt(second)[None])
        coded = code_weight(weight, spec, "minmax", kept=kept)
        own = coded.decode().astype(np.float64)
        none = error_of(weight, own, held)
        naive, slim = (
            error_of(weight, own + outer @ inner, held)
            for inner, outer in (
                saliency_rank(weight, coded, sizes, 6) for sizes in (np.ones_like(second), second)
            )
        )
        assert slim < naive < none
