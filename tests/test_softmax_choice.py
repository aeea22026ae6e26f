# SPDX-License-Identifier: Apache-2.0
"""`--softmax-format`: which attentions have it, how twin is chosen, the artifact, the refusals."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import qcompile
from models import digits, vit_digits
from qcompile.compile import plan_only
from qcompile.errors import InputError, QcompileError, VerificationError
from qcompile.graph import attribute
from qcompile.lower import lower
from qcompile.numerics.softmax_formats import SoftmaxFormat
from qcompile.recipe import Recipe
from qcompile.softmax_choice import mark_softmax, shift_errors
from qcompile.targets import get
from tests.cli.run import run
from tests.pipeline.nets import Net, cnn, samples
from tests.robustness.seeds import heads, rows

NOTE = "softmax format twin4: 2 of 2 attentions have it"
LAST = ["node_scaled_dot_product_attention", "node_scaled_dot_product_attention_1"]


def data() -> dict[str, np.ndarray]:
    return {"image": digits.data("calibration")[0][:64]}


def compiled(folder: Path, name: str | None) -> qcompile.Artifact:
    recipe = Recipe(preset="w8a8", effort="quick", softmax_format=name)
    return qcompile.compile(
        vit_digits.path(), output=folder, recipe=recipe, calibration_data=data(), force=True
    )


def attentions(artifact: qcompile.Artifact) -> list:
    return [n for n in artifact.model().graph if n.op_type == "QAttention"]


@pytest.mark.parametrize("name", ["log2_4", "log2_3", "twin4"])
def test_the_artifact_runs_it(name: str, tmp_path: Path) -> None:
    found = compiled(tmp_path / "a.qc", name)
    assert all(check["passed"] for check in found.measured["checks"])
    (check,) = (c for c in found.measured["checks"] if c["rung"] == "lower: QDQ, attention")
    assert check["count"] > 0
    nodes = attentions(found)
    assert [node.name for node in nodes] == LAST
    assert {attribute(node, "softmax_format") for node in nodes} == {name}
    shifts = [int(attribute(node, "softmax_shift", 0)) for node in nodes]
    formats = [SoftmaxFormat.parse(name, shift).text for shift in shifts]
    assert found.content["softmax_formats"] == dict(zip(LAST, formats, strict=True))
    assert all(shift in SoftmaxFormat.parse(name).shifts for shift in shifts)
    assert f"softmax format {name}: 2 of 2 attentions have it" in found.content["notes"]
    images, labels = digits.data("test")
    (logits,) = qcompile.load(found.folder).run(None, {"image": images})
    assert 100 * np.mean(logits.argmax(1) == labels) > 97  # the float model: 98.2


def test_uint8_is_the_default(tmp_path: Path) -> None:
    plain, named = (compiled(tmp_path / f"{i}.qc", n) for i, n in enumerate((None, "uint8")))
    assert plain.content["softmax_formats"] == named.content["softmax_formats"] == {}
    assert plain.content["files"] == named.content["files"]
    for node in attentions(plain):
        assert "softmax_format" not in node.attributes
    assert not set(LAST) & set(plain.content["float_nodes"])


def test_a_wrong_level_fails_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has log2_3, and the reference log2_2."""

    def narrower(name: str, shift: int = 0) -> SoftmaxFormat:
        return SoftmaxFormat.parse(name.replace("_3", "_2"), shift)

    monkeypatch.setattr("qcompile.reference.SoftmaxFormat", SimpleNamespace(parse=narrower))
    with pytest.raises(VerificationError, match="lower: codes"):
        compiled(tmp_path / "a.qc", "log2_3")


def test_the_shift_has_the_least_error() -> None:
    """Rows within a factor of three need fine steps, sharp ones a wide range."""
    rng, softmax = np.random.default_rng(0), SoftmaxFormat.parse("twin4")
    v = rng.standard_normal((2, 40, 8)).astype(np.float32)

    def errors(spread: float) -> np.ndarray:
        scores = spread * np.random.default_rng(1).standard_normal((2, 30, 40))
        p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        return shift_errors(softmax, p.astype(np.float32), v, rng)

    flat, sharp = int(np.argmin(errors(0.5))), int(np.argmin(errors(4)))
    assert softmax.shifts[flat] < softmax.shifts[sharp]
    assert len(errors(1)) == len(softmax.shifts) and (errors(1) > 0).all()
    hidden = np.zeros((2, 30, 40), np.float32)  # a row that sees nothing
    assert (shift_errors(softmax, hidden, v, rng) == 0).all()


def planned(net: Net, folder: Path, **recipe) -> str:
    with pytest.raises(InputError) as error:
        asked = Recipe(**{"preset": "w8a8", "softmax_format": "log2_4"} | recipe)
        plan_only(net.save(folder / "m.onnx"), recipe.pop("target", "cpu"), asked, samples(net))
    return str(error.value)


def test_refusals(tmp_path: Path) -> None:
    none = "softmax format log2_4: no attention of static codes has it"
    assert planned(cnn(), tmp_path) == f"{none} (the model has none of MatMul, Softmax and MatMul)"
    with pytest.raises(InputError, match='unknown softmax format "log4": did you mean'):
        Recipe(softmax_format="log4")
    dynamic = planned(rows(), tmp_path, preset="w8a8-dynamic")
    assert dynamic == (
        "softmax format log2_4: preset w8a8-dynamic makes the codes of attention at run time, with "
        "weights of uint8 (N32): take static activations (w8a8), or leave it out"
    )
    assert planned(rows(), tmp_path, preset="w8a16") == (
        "softmax format log2_4: preset w8a16 leaves attention in float: leave it out"
    )
    path = rows().save(tmp_path / "m.onnx")
    for target, why in (
        ("ort", "its Softmax is a float op of ONNX Runtime"),
        ("tvm-cpu", "it has no kernel for attention"),
        ("t4", "it has no kernel for attention"),
    ):
        recipe = Recipe(preset="w8a8", softmax_format="log2_4")
        with pytest.raises(InputError, match=f"softmax format log2_4: target {target}.* has none"):
            plan_only(path, target, recipe, samples(rows()))
        with pytest.raises(InputError, match=why):
            plan_only(path, target, recipe, samples(rows()))
    recipe = Recipe(preset="w8a8", softmax_format="twin4", input_range="0:1")
    with pytest.raises(InputError, match="twin4: the ratio of its two steps is chosen by the err"):
        plan_only(path, "cpu", recipe)


def test_what_the_commands_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "data.npz", allow_pickle=False, **data())
    flags = [vit_digits.path(), "--preset", "w8a8", "--calibration-data", tmp_path / "data.npz"]
    flags += ["--softmax-format", "twin4"]
    dry = run(capsys, *flags, "--dry-run")
    assert dry.code == 0
    assert f"note: {NOTE}" in dry.out and f"{LAST[0]}    twin4" in dry.out
    assert "note: softmax: each attention gets the ratio of steps with the least err" in dry.out
    found = json.loads(run(capsys, *flags, "--dry-run", "--json").out)
    assert found["softmax_formats"] == dict.fromkeys(LAST, "twin4")
    why = run(capsys, *flags, "--why", LAST[0]).out
    assert "softmax: twin4\n" in why and "reason: attention of static codes\n" in why
    out = tmp_path / "a.qc"
    assert run(capsys, *flags, "--effort", "quick", "--quiet", "-o", out).code == 0
    shown = run(capsys, "inspect", out).out
    assert "attention" in shown and f"{LAST[1]}  twin4, steps 1 and 2^" in shown


def test_attention_of_floats_keeps_its_weights(tmp_path: Path) -> None:
    """A model with both kinds; of the second k is no code, for a function that no table has."""
    net = heads()
    found = planned(net, tmp_path, rules=(qcompile.Rule(match=".*/k_product.*", exclude=True),))
    assert found.startswith("softmax format log2_4: no attention of static codes has it (")
    assert "its codes are made at run time, and its weights are uint8 (N32)" in found


def test_a_format_that_is_lost_on_the_way_is_a_bug(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8", softmax_format="log2_4")
    path = rows().save(tmp_path / "m.onnx")
    plan, model = plan_only(path, "cpu", recipe, samples(rows()))
    (name,) = plan.softmax
    marked = mark_softmax(model, plan)
    (node,) = (n for n in marked.graph if n.name == name)
    assert node.metadata_props["qcompile.softmax_format"] == "log2_4"
    floats = replace(plan, nodes={}, attentions=frozenset())
    with pytest.raises(QcompileError, match=f"target cpu did not give {name} its softmax"):
        lower(model, floats, get("cpu"))
    assert onnx.load(path).graph.node  # the file is as it was
