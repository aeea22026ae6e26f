# SPDX-License-Identifier: Apache-2.0
"""The quantized network is tuned where held-out samples gain; verification sees a wrong graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import qcompile
from qcompile import targets
from qcompile import tuning_work as module
from qcompile.annotate import annotate
from qcompile.calibrate import calibrate
from qcompile.compensate import compensate_weights
from qcompile.data import Batch, Data
from qcompile.division import Division, Footprint
from qcompile.graph import constant
from qcompile.memory import BASE_BYTES, Budget
from qcompile.normalise import normalise
from qcompile.passes.transform.stats import Stats
from qcompile.recipe import Recipe
from qcompile.transform import transform
from qcompile.tune import tune
from qcompile.tuned import Tuned
from qcompile.verify_tuned import check_tuned
from tests.passes.stages import with_weights

NET = """f (float[b,3,10,10] x, float w, float v, float u, float k, float c) => (float[b,5] y)
{ h = Conv <pads = [1,1,1,1]> (x, w)   r = Relu (h)
  e = Conv <pads = [1,1,1,1]> (r, v)   a = Add (e, r)   s = Relu (a)
  i = Conv <strides = [2,2]> (s, u)   q = Relu (i)
  p = GlobalAveragePool (q)   f = Flatten (p)   y = Gemm <transB = 1> (f, k, c) }"""
SHAPES = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "u": (8, 8, 3, 3), "k": (5, 8), "c": (5,)}


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Smooth maps."""
    x = np.random.default_rng(seed).standard_normal((count, 3, 12, 12))
    return (x[:, :, 2:, 2:] + x[:, :, 1:-1, 1:-1] + x[:, :, :-2, :-2]).astype(np.float32)


class Net:
    """A net through the stages before tune."""

    def __init__(
        self, preset: str, text: str = NET, count: int = 64, shapes: dict | None = None, **recipe
    ) -> None:
        self.recipe = Recipe(preset=preset, edge_bits=4, rotation="off", **recipe)
        self.model = normalise(with_weights(text, **(shapes or SHAPES)))
        batch = Batch.of(list(self.model.graph.inputs))
        self.data = Data(list(batch.split({"x": images(count)})), batch)
        self.plan = annotate(self.model, self.recipe, targets.get("cpu"), has_data=True)
        self.division = Division(Budget(), Footprint.of(self.model, self.data))
        stats: Stats = calibrate(self.model, self.plan, self.recipe, self.data)
        stats = compensate_weights(
            self.model, self.plan, self.recipe, self.data, stats, self.division
        )
        self.quantized = transform(self.model, self.plan, stats, self.recipe)

    def tuned(self, **recipe) -> Tuned:
        asked = replace(self.recipe, **recipe)
        return tune(self.quantized, self.model, self.plan, asked, self.data, self.division)

    def checks(self, tuned: Tuned) -> dict[str, bool]:
        made = check_tuned(self.model, self.quantized, tuned, self.division)
        return {check.rung: check.passed for check in made}


def arrays(model: ir.Model) -> dict[str, NDArray]:
    return {n: constant(v) for n, v in model.graph.initializers.items()}  # type: ignore[misc]


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("w3a8")


@pytest.fixture(scope="module")
def tuned(net: Net) -> Tuned:
    return net.tuned()


def test_outputs_on_held_out_samples_are_nearer_and_codes_stay(net: Net, tuned: Tuned) -> None:
    assert tuned.note.startswith("tuned: 60 steps; loss")
    assert net.checks(tuned) == {"tune: codes": True, "tune: outputs": True}
    before, after = arrays(net.quantized), arrays(tuned.model)
    changed = {n for n, a in after.items() if not np.array_equal(a, before[n])}
    assert all(n.endswith(("_scale", "_bias_codes")) for n in changed)
    assert {"w_scale", "v_scale", "x_scale"} <= changed
    leaders = net.plan.leaders
    same = {n: float(after[f"{n}_scale"]) for n in leaders if f"{n}_scale" in after}
    assert all(scale == same[leaders[n]] for n, scale in same.items())


def test_new_samples_gain_too_where_much_is_lost() -> None:
    found, fresh = Net("w2a8", count=256), [{"x": images(64, seed=5)}]
    assert found.checks(replace(found.tuned(), held=fresh))["tune: outputs"]


def test_the_same_seed_gives_the_same_numbers(net: Net, tuned: Tuned) -> None:
    again, other = net.tuned(), net.tuned(seed=1)
    first = arrays(tuned.model)
    assert all(np.array_equal(a, first[n]) for n, a in arrays(again.model).items())
    assert any(not np.array_equal(a, first[n]) for n, a in arrays(other.model).items())


def test_steps_are_counted(net: Net) -> None:
    seen: list[tuple[str, int, int]] = []
    net.data, old = replace(net.data, watch=lambda *step: seen.append(step)), net.data
    net.tuned()
    net.data = old
    assert [s for s in seen if s[0] == "steps"] == [("steps", i + 1, 60) for i in range(60)]


@pytest.mark.parametrize(
    "recipe", [{"effort": "quick"}, {"weight_rounding": "gptq"}, {"weight_rounding": "nearest"}]
)
def test_nothing_is_tuned_where_less_is_asked(net: Net, recipe: dict[str, str]) -> None:
    assert net.tuned(**recipe) == Tuned(net.quantized)


def test_8_bits_are_not_tuned() -> None:
    found = Net("w8a8")
    found.recipe = replace(found.recipe, edge_bits=8)
    found.plan = annotate(found.model, found.recipe, targets.get("cpu"), has_data=True)
    assert found.tuned() == Tuned(found.quantized)


def test_why_nothing_is_tuned(net: Net) -> None:
    found = Net("w3a8", NET.replace("s = Relu (a)", "t = Sin (a) s = Relu (t)"))
    assert "Sin has no gradient here" in found.tuned().note
    assert "too few samples" in Net("w3a8", count=8).tuned().note
    old, net.division = net.division, tight(net, samples=0.5)
    assert "do not fit the memory" in net.tuned().note
    net.division = old


def tight(net: Net, samples: float) -> Division:
    """The least memory there is, and values of which about so many samples fit."""
    least, footprint = Budget(BASE_BYTES), net.division.footprint
    each = 6 * sum(footprint.sizes.values()) + 18 * max(footprint.sizes.values())
    factor = least.working_bytes / (each * samples)
    sizes = {name: int(size * factor) for name, size in footprint.sizes.items()}
    return Division(least, Footprint(sizes))


def test_a_step_in_runs_of_fewer_samples(net: Net) -> None:
    old, net.division = net.division, tight(net, samples=5.5)
    found = net.tuned()
    net.division = old
    assert found.is_tuned and net.checks(found)["tune: outputs"]
    assert max(len(feed["x"]) for feed in found.held) == 5


def test_verify_sees_other_codes_and_worse_outputs(net: Net, tuned: Tuned) -> None:
    def spoilt(name: str, array: NDArray) -> Tuned:
        model = tuned.model.clone()
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
        return replace(tuned, model=model)

    found = arrays(tuned.model)
    codes = found["v_codes"].copy()
    codes.flat[0] = codes.flat[0] - 1 if codes.flat[0] > 0 else codes.flat[0] + 1
    assert not net.checks(spoilt("v_codes", codes))["tune: codes"]
    assert not net.checks(spoilt("v_scale", 2 * found["v_scale"]))["tune: outputs"]
    assert net.checks(Tuned(net.quantized)) == {}


@pytest.mark.parametrize(
    ("target", "preset"),
    [("cpu", "w3a8"), ("cpu", "w4a4"), ("cpu", "w3a8-dynamic"), ("ort", "w4a8-dynamic")],
)
def test_tuned_artifacts_are_verified(preset: str, target: str, tmp_path: Path) -> None:
    ir.save(with_weights(NET, **SHAPES), tmp_path / "net.onnx")
    data = [{"x": images(64)}]
    artifact = qcompile.compile(
        tmp_path / "net.onnx",
        target,
        recipe=Recipe(preset=preset, edge_bits=4),
        calibration_data=data,
    )
    notes = artifact.content["notes"]
    rungs = {check["rung"] for check in artifact.measured["checks"]}
    assert any("tuned: " in note for note in notes)
    assert ("tune: codes" in rungs) == any(note.startswith("tuned: ") for note in notes)


def test_integer_only_networks_are_tuned(tmp_path: Path) -> None:
    ir.save(with_weights(NET, **SHAPES), tmp_path / "net.onnx")
    recipe = Recipe(preset="w4a8", integer_only=True)
    data = [{"x": images(64)}]
    artifact = qcompile.compile(tmp_path / "net.onnx", recipe=recipe, calibration_data=data)
    assert any("tuned: " in note for note in artifact.content["notes"])


def test_once_more_with_smaller_steps_where_large_ones_gain_nothing(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RATE", 1.0)  # scales change by e: nothing can gain
    seen: list[tuple[str, int, int]] = []
    net.data, old = replace(net.data, watch=lambda *step: seen.append(step)), net.data
    found = net.tuned()
    assert len(seen) == 120
    monkeypatch.setattr(module, "_RATE", 4e-2)  # a tenth is the rate that gains
    monkeypatch.setattr(module, "GAIN", 0.0)
    assert net.tuned().note.startswith("not tuned: 60 steps at 0.1 of the rate; loss")
    net.data = old
    assert "60 steps at 0.1 of the rate" in found.note


def test_codes_move_where_held_out_samples_gain() -> None:
    found = Net("w2a8", count=128, weight_rounding="nearest")
    plain, moved = found.tuned(weight_rounding="descent"), found.tuned(weight_rounding="pv")
    assert plain.moved == {}
    assert " codes moved; loss of the outputs" in moved.note
    before, after = arrays(found.quantized), arrays(moved.model)
    counts = {
        f"{name}_codes": int((after[f"{name}_codes"] != before[f"{name}_codes"]).sum())
        for name in ("w", "v", "u", "k")
    }
    assert sum(counts.values()) > 0
    assert {f"{n.removesuffix('/dequantize')}_codes": c for n, c in moved.moved.items()} == counts
    assert found.checks(moved) == {"tune: codes": True, "tune: outputs": True}
    assert not found.checks(replace(moved, moved={}))["tune: codes"]
    least = [float(t.note.rpartition(" ")[2]) for t in (plain, moved)]
    assert least[1] < least[0]
