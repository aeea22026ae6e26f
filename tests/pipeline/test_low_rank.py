# SPDX-License-Identifier: Apache-2.0
"""`--low-rank`: what the codes leave out runs as two products of 8 bits, and is verified."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile import low_rank as module
from qcompile.calibrate import calibrate
from qcompile.errors import InputError
from qcompile.graph import constant
from qcompile.low_rank import add_low_rank
from qcompile.recipe import Recipe
from qcompile.transform import transform
from qcompile.verify_compensated import check_low_rank
from tests.pipeline.nets import mlp, samples
from tests.pipeline.test_tune import Net

TEXT = """f (float[b,3,10,10] x, float w, float v, float c) => (float[b,24] y)
{ f = Flatten (x)   h = MatMul (f, w)   r = Relu (h)   g = MatMul (r, v)   y = Add (g, c) }"""
SHAPES = {"w": (300, 32), "v": (32, 24), "c": (24,)}

OTHERS = "others are no MatMul of an own weight with dynamic or float inputs, or too large"


def compiled(preset: str, folder: Path, share: float, **recipe) -> qcompile.Artifact:
    net = mlp()
    asked = Recipe(preset, low_rank=share, edge_bits=2, effort="quick", **recipe)
    path = net.save(folder / "m.onnx")
    return qcompile.compile(path, recipe=asked, calibration_data=samples(net), force=True)


@pytest.mark.parametrize("preset", ["w3a16", "w3a8-dynamic"])
def test_the_parts_run_from_packed_codes_and_better_the_outputs(
    preset: str, tmp_path: Path
) -> None:
    plain, found = (compiled(preset, tmp_path, share) for share in (0.0, 0.2))
    assert found.measured["sqnr_db"] > plain.measured["sqnr_db"]
    rows = {r["node"]: r for r in found.content["nodes"]}
    parts = [r for name, r in rows.items() if name.endswith(("/inner", "/outer"))]
    assert len(parts) == 2 * (len(rows) - len(parts))
    assert {r["weight"] for r in parts} == {"int8/axis(axis=0)/sym/f32"}
    assert all(r["decided_by"] == "--low-rank" for r in parts)
    checks = {c["rung"]: c for c in found.measured["checks"]}
    assert checks["transform: low-rank parts"]["passed"]
    assert "transform: low-rank parts" not in {c["rung"] for c in plain.measured["checks"]}
    (note,) = (n for n in found.content["notes"] if n.startswith("low-rank parts: "))
    assert "low-rank parts: 3 of 3 narrow products; output error on held-out inputs 0." in note
    x = samples(mlp())
    session = qcompile.load(found.folder, trust_library=True)
    assert all(np.isfinite(y).all() for y in session.run(None, x))


def test_static_products_and_no_data(tmp_path: Path) -> None:
    notes = compiled("w3a8", tmp_path, 0.2).content["notes"]
    assert f"low-rank parts: 0 of 3 narrow products; {OTHERS}" in notes
    recipe = Recipe("w3a16", low_rank=0.1)
    found = qcompile.compile(tmp_path / "m.onnx", recipe=recipe, force=True)
    assert "no low-rank parts: they need --calibration-data" in found.content["notes"]
    with pytest.raises(InputError) as error:
        Recipe(low_rank=0.6)
    assert str(error.value) == "low rank 0.6: a share of 0 to 0.5 of the smaller side"


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("w3a16", TEXT, 64, SHAPES, low_rank=0.1)


def parts_of(net: Net):
    stats = calibrate(net.model, net.plan, net.recipe, net.data)
    return add_low_rank(net.model, net.plan, net.recipe, net.data, stats, net.division)


def test_verify_sees_a_part_that_does_not_help(net: Net) -> None:
    plan, stats = parts_of(net)
    quantized = transform(net.model, plan, stats, net.recipe)
    (check,) = check_low_rank(net.model, quantized, stats)
    assert check.passed
    spoilt = quantized.clone()
    name = next(n for n in spoilt.graph.initializers if n.endswith("/outer_w_codes"))
    held = spoilt.graph.initializers[name]
    held.const_value = ir.tensor(-constant(held), name=name)
    (check,) = check_low_rank(net.model, spoilt, stats)
    assert not check.passed


def test_ranks_and_memory(net: Net, monkeypatch) -> None:
    _, stats = parts_of(net)
    assert [p.inner.shape for p in stats.low_rank.values()] == [(3, 300), (2, 32)]
    monkeypatch.setattr(module, "_BYTES", 1 << 50)
    plan, stats = parts_of(net)
    assert stats.low_rank == {}
    assert plan.notes[-1] == f"low-rank parts: 0 of 2 narrow products; {OTHERS}"


def test_the_outputs_keep_their_names(net: Net) -> None:
    plan, stats = parts_of(net)
    quantized = transform(net.model, plan, stats, net.recipe)
    assert [v.name for v in quantized.graph.outputs] == ["y"]
