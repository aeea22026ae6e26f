# SPDX-License-Identifier: Apache-2.0
"""`--activation-polish lognp`: tables between 8-bit codes, where the data has less error so."""

from pathlib import Path

import numpy as np
import pytest

import qcompile
from qcompile.calibrate import calibrate
from qcompile.data import Batch, Data
from qcompile.errors import InputError
from qcompile.graph import constant
from qcompile.polish import polish
from qcompile.recipe import Recipe
from tests.pipeline.nets import Net, cnn, samples
from tests.pipeline.test_tune import Net as Staged


def compiled(folder: Path, net: Net, target: str = "cpu", **recipe) -> qcompile.Artifact:
    asked = Recipe(**{"preset": "w4a4", "edge_bits": 4, "weight_rounding": "gptq"} | recipe)
    path = net.save(folder / "m.onnx")
    return qcompile.compile(path, target, recipe=asked, calibration_data=samples(net), force=True)


def test_artifacts_run_tables_and_lose_less(tmp_path: Path) -> None:
    plain = compiled(tmp_path, cnn(), rotation="off")
    found = compiled(tmp_path, cnn(), rotation="off", activation_polish="lognp")
    assert found.measured["sqnr_db"] > plain.measured["sqnr_db"]
    assert all(c["passed"] for c in found.measured["checks"])
    (note,) = (n for n in found.content["notes"] if n.startswith("activation polish"))
    assert note == (
        "activation polish lognp: 3 of 3 narrow activations have levels of LogNP in codes of 8 bits"
    )
    graph = found.model().graph
    tables = [constant(n.inputs[1]) for n in graph if n.op_type == "QLut"]
    assert sum(len(np.unique(t)) <= 16 for t in tables) >= 3


def test_tuning_goes_through_the_levels(tmp_path: Path) -> None:
    found = compiled(
        tmp_path, cnn(), activation_polish="lognp", weight_rounding="descent", effort="default"
    )
    assert not any("has no gradient" in n for n in found.content["notes"])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        compiled(tmp_path, cnn(), activation_polish="lognp", integer_only=True)
    assert str(error.value) == (
        "activation polish lognp: the tables are target cpu's; target cpu --integer-only has none: "
        "leave it out"
    )
    with pytest.raises(InputError, match='unknown activation polish "logn": did you mean "lognp"'):
        Recipe(activation_polish="logn")


def test_uniform_levels_stay_where_they_are_better() -> None:
    """Values that are all over their range."""
    net = Staged("w4a4", weight_rounding="gptq", activation_polish="lognp")
    spread = np.random.default_rng(0).uniform(-1, 1, (64, 3, 10, 10)).astype(np.float32)
    batch = Batch.of(list(net.model.graph.inputs))
    data = Data(list(batch.split({"x": spread})), batch)
    stats = calibrate(net.model, net.plan, net.recipe, data)
    plan, after = polish(net.model, net.plan, net.recipe, data, stats, net.division)
    assert "x" not in {plan.copies[name] for name in after.polish}
    assert plan.activations["x"].bits == 4


def test_8_bits_and_no_data_have_nothing_to_polish(tmp_path: Path) -> None:
    found = compiled(tmp_path, cnn(), preset="w4a8", activation_polish="lognp")
    assert any(" 0 of 0 narrow activations" in n for n in found.content["notes"])
