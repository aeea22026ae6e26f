# SPDX-License-Identifier: Apache-2.0
"""LSTM of 8 bits runs in ONNX Runtime's own op; others, GRU and RNN as products and a Scan."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

import qcompile
from qcompile.artifact import MODEL, Artifact
from qcompile.errors import InputError, VerificationError
from qcompile.recipe import Preset, Recipe, Rule
from tests.pipeline.nets import Net, samples

PIPELINE = sys.modules["qcompile.compile"]
LSTM, HEAD = "/l/LSTM", "/y_product/MatMul"
HEAD_FLOAT = Rule(HEAD, exclude=True)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
NOTE = "ONNX Runtime's LSTM quantizes its input and state itself"


def net(op: str = "LSTM", hidden: int = 8) -> Net:
    """One recurrent op and a head."""
    made = Net()
    x, rows = made.input("x", ["seq", 2, 16]), GATES[op] * hidden
    held = [x, made.weight("w", 1, rows, 16), made.weight("r", 1, rows, hidden)]
    states = made.node(op, held, "l", hidden_size=hidden)
    one = made.array("one", np.array([1], np.int64))
    made.linear(made.node("Squeeze", [states, one], "d"), hidden, 4, "y")
    made.output("y", ["seq", 2, 4])
    return made


def compiled(made: Net, folder: Path, recipe: Recipe, target: str = "cpu") -> Artifact:
    data = samples(made) if recipe.preset == "w8a8" else None
    path = made.save(folder / "m.onnx")
    return qcompile.compile(path, target, recipe=recipe, calibration_data=data, force=True)


def row(artifact: Artifact) -> dict[str, Any]:
    return next(r for r in artifact.content["nodes"] if r["node"] == LSTM)


@pytest.mark.parametrize("target", ["cpu", "ort"])
@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_lstm_runs_from_codes(preset: str, target: str, tmp_path: Path) -> None:
    made = compiled(net(), tmp_path, Recipe(preset=preset), target)
    found, content = row(made), made.content
    assert found["weight"] == "int8/axis(axis=0)/sym/f32"
    assert (found["kernel"], found["elements"]) == ("DynamicQuantizeLSTM", 32 * (16 + 8))
    assert found["packed_bytes"] == 32 * (16 + 8) + 2 * 32 * (4 + 1)  # scales, zero points
    assert content["coverage"] == 1.0
    assert [n for n in content["notes"] if n.startswith(NOTE)] != []
    rungs = [c["rung"] for c in made.measured["checks"]]
    assert "lower: recurrent" in rungs
    ops = [n.op_type for n in ir.load(made.folder / MODEL).graph]
    assert "DynamicQuantizeLSTM" in ops and "LSTM" not in ops


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (Recipe(preset="w8a8-dynamic", rules=(Rule(LSTM, exclude=True),)), "excluded"),
        (Recipe(preset="w8a8-dynamic", op_types_to_quantize=("MatMul",)), "is not among"),
    ],
)
def test_reasons(recipe: Recipe, reason: str, tmp_path: Path) -> None:
    """Weights that stay float are listed with the reason, and are no part of coverage."""
    made = compiled(net(), tmp_path, recipe)
    assert row(made)["weight"] is None and reason in row(made)["reason"]
    assert made.content["coverage"] == 1.0
    assert not any(n.startswith(NOTE) for n in made.content["notes"])


def test_a_global_weight_format_is_not_for_the_lstm(tmp_path: Path) -> None:
    made = compiled(net(), tmp_path, Recipe(preset="w8a8-dynamic", weight_format="e2m1"))
    assert row(made)["weight"].startswith("int8")


SPLIT = [
    *(("cpu", p) for p in ("w8a8", "w8a8-dynamic", "w4a8-dynamic", "w4a16", "w2a16")),
    ("ort", "w8a8-dynamic"),
    ("ort", "w4a16"),
]
PARTS = {"GRU": ["product", "reset"], "RNN": ["product"], "LSTM": ["product"]}


@pytest.mark.parametrize(("target", "preset"), SPLIT)
@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_gru_and_rnn_run_as_products(op: str, preset: str, target: str, tmp_path: Path) -> None:
    """The input's product outside, with the preset's activations, and the recurrence inside."""
    made = compiled(net(op), tmp_path, Recipe(preset=preset), target)
    rows = {r["node"]: r for r in made.content["nodes"]}
    inside = [f"/l/{op}/scan/body/{part}/MatMul" for part in PARTS[op]]
    assert sorted(rows) == sorted([HEAD, f"/l/{op}/input/MatMul", *inside])
    assert all(r["weight"] is not None for r in rows.values())
    assert sum(r["elements"] for r in rows.values()) == GATES[op] * 8 * (16 + 8) + 4 * 8
    assert made.content["coverage"] == 1.0
    assert {"normalise: steps"} <= {c["rung"] for c in made.measured["checks"]}
    bits = Preset.parse(preset).weight_bits
    assert all(rows[n]["weight"].split("/")[0][-1] == str(bits) for n in inside)


@pytest.mark.parametrize("preset", ["w4a8", "w4a8-dynamic", "w8a16", "w8a4-dynamic"])
def test_other_lstms_run_as_products(preset: str, tmp_path: Path) -> None:
    made = net()
    data = samples(made) if preset == "w4a8" else None
    recipe = Recipe(preset=preset)
    found = qcompile.compile(
        made.save(tmp_path / "m.onnx"), recipe=recipe, calibration_data=data, force=True
    )
    kernels = {r["node"]: r["kernel"] for r in found.content["nodes"]}
    assert f"{LSTM}/scan/body/product/MatMul" in kernels
    assert all(k.startswith("QMatMul") for k in kernels.values())


@pytest.mark.parametrize(
    "rule",
    [
        Rule(LSTM, weight_format="e2m1"),
        Rule(LSTM, preset="w4a16"),
        Rule(op_types=("LSTM",), preset="w4a16"),
    ],
)
def test_a_rule_about_the_whole_node_is_about_its_parts(rule: Rule, tmp_path: Path) -> None:
    made = compiled(net(), tmp_path, Recipe(preset="w8a8-dynamic", rules=(rule,)))
    found = {r["node"]: r["weight"].split("/")[0] for r in made.content["nodes"]}
    asked = rule.weight_format or "uint4"
    parts = {n: f for n, f in found.items() if n.startswith(LSTM)}
    assert set(parts.values()) == {asked} and len(parts) == 2 and found[HEAD] == "int8"
    assert not any("is about no weighted node" in n for n in made.content["notes"])


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_what_is_excluded_is_not_split(op: str, tmp_path: Path) -> None:
    rule = Rule(op_types=(op,), exclude=True, source="the rule")
    made = compiled(net(op), tmp_path, Recipe(preset="w8a8-dynamic", rules=(rule,)))
    found = made.content["nodes"][0]
    assert (found["op"], found["weight"], found["reason"]) == (op, None, "excluded by the rule")
    assert op in [n.op_type for n in ir.load(made.folder / MODEL).graph]


def test_op_types_name_recurrent_nodes(tmp_path: Path) -> None:
    recipe = Recipe(preset="w8a8-dynamic", op_types_to_quantize=("GRU",))
    rows = compiled(net("GRU"), tmp_path, recipe).content["nodes"]
    assert [r["node"] for r in rows if r["weight"] is None] == [HEAD]


def test_activations_with_parameters_stay_float(tmp_path: Path) -> None:
    made = net("GRU")
    made.nodes[0].attribute.append(helper.make_attribute("activations", ["HardSigmoid", "Tanh"]))
    found = compiled(made, tmp_path, Recipe(preset="w8a8-dynamic")).content["nodes"][0]
    assert found["reason"] == "its activations HardSigmoid are not split"


def test_a_computed_recurrence_stays_float(tmp_path: Path) -> None:
    made = net()
    made.input("q", [1, 32, 8])
    made.nodes[0].input[2] = made.node("Abs", ["q"], "z")
    made.nodes.insert(0, made.nodes.pop())
    found = compiled(made, tmp_path, Recipe(preset="w8a8-dynamic"))
    assert row(found)["reason"] == "its recurrence weight is no float32 constant"


def test_a_shared_weight_stays_float_with_the_node_that_does(tmp_path: Path) -> None:
    made = net()
    made.node("LSTM", ["x", "w", "r"], "other", hidden_size=8)
    made.output("other", ["seq", 1, 2, 8])
    recipe = Recipe(preset="w8a8-dynamic", rules=(Rule(LSTM, exclude=True),))
    for found in compiled(made, tmp_path, recipe).content["nodes"]:
        assert (found["weight"] is None) == (found["op"] == "LSTM")


def test_a_quantized_lstm_of_the_user_stays_as_it_is(tmp_path: Path) -> None:
    """It is no weighted node, and no rung compares it with an LSTM."""
    made = compiled(net(), tmp_path, Recipe(preset="w8a8-dynamic", rules=(HEAD_FLOAT,)), "ort")
    again = qcompile.compile(
        made.folder / MODEL, output=tmp_path / "again.qc", recipe=Recipe(preset="w8a8-dynamic")
    )
    assert [r["node"] for r in again.content["nodes"]] == [HEAD]
    graphs = [ir.load(each.folder / MODEL).graph for each in (made, again)]
    first, second = (next(n for n in g if n.op_type == "DynamicQuantizeLSTM") for g in graphs)
    pairs = zip(first.inputs, second.inputs, strict=True)
    held = [(a, b) for a, b in pairs if a is not None and a.const_value is not None]
    assert len(held) == 6 and all(same(a, b) for a, b in held)


def same(a: ir.Value, b: ir.Value | None) -> bool:
    return b is not None and np.array_equal(a.const_value.numpy(), b.const_value.numpy())


@pytest.mark.parametrize("name", ["w", "r"])
def test_nan_is_refused(name: str, tmp_path: Path) -> None:
    made = net()
    made.weights[name][0, 3, 1] = np.nan
    with pytest.raises(InputError, match=f"its weight {name} holds NaN"):
        compiled(made, tmp_path, Recipe(preset="w8a8-dynamic"))


def shift(name: str) -> Callable[[ir.Model], None]:
    """Add 1 to the first number of an initializer."""

    def change(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        array.flat[0] += 1
        value.const_value = ir.tensor(array, name=name)

    return change


def clip(model: ir.Model) -> None:
    """An attribute that the LSTM does not have."""
    node = next(n for n in model.graph if n.op_type == "DynamicQuantizeLSTM")
    node.attributes["clip"] = ir.AttrFloat32("clip", 1.0)


TWINS = [
    ("transform", shift("w_codes"), "transform: weights"),
    ("transform", shift("r_scale"), "transform: weights"),
    ("pack", shift("w_codes_unsigned"), "lower: recurrent"),
    ("pack", shift("r_codes_unsigned"), "lower: recurrent"),
    ("pack", shift("w_scale_directions"), "lower: recurrent"),
    ("pack", clip, "lower: recurrent"),
]


@pytest.mark.parametrize(("stage", "change", "rung"), TWINS)
@pytest.mark.parametrize("target", ["cpu", "ort"])
def test_one_wrong_number_is_found(
    stage: str, change: Callable, rung: str, target: str, tmp_path: Path, monkeypatch: Any
) -> None:
    real = getattr(PIPELINE, stage)

    def changed(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        change(result)
        return result

    monkeypatch.setattr(PIPELINE, stage, changed)
    with pytest.raises(VerificationError, match=rung):
        compiled(net(), tmp_path, Recipe(preset="w8a8-dynamic"), target)


def test_an_lstm_of_the_model_may_use_one_zero_point_twice(tmp_path: Path) -> None:
    """ONNX Runtime does not open that with session.x64quantprecision (qcompile/own_weights.py)."""
    net = Net()
    x = net.input("x", [3, "batch", 16])
    codes = [
        net.array(n, net.rng.integers(-100, 100, (1, k, 32)).astype(np.int8))
        for n, k in (("W", 16), ("R", 8))
    ]
    scale, point = (
        net.array("s", np.full(1, 0.01, np.float32)),
        net.array("z", np.zeros(1, np.int8)),
    )
    inputs = [x, *codes, "", "", "", "", "", scale, point, scale, point]
    node = helper.make_node(
        "DynamicQuantizeLSTM", inputs, ["h"], "lstm", domain="com.microsoft", hidden_size=8
    )
    net.nodes.append(node)
    net.linear("h", 8, 16, "y")
    net.output("y", [3, 1, "batch", 16])
    model = net.proto(check=False)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    made = qcompile.compile(path)
    assert made.content["coverage"] == 1
    qcompile.load(made.folder).run(None, {"x": np.ones((3, 2, 16), np.float32)})


def test_several_lstms_leave_outputs_out(tmp_path: Path) -> None:
    """What has no name is no name that is given twice."""
    net = Net()
    x = net.input("x", [3, "batch", 16])
    for i in range(2):
        weights = [net.weight(f"{n}{i}", 1, 64, 16) for n in "WR"]
        last = ["", f"h{i}"]
        net.nodes.append(helper.make_node("LSTM", [x, *weights], last, f"l{i}", hidden_size=16))
    net.linear(net.node("Add", ["h0", "h1"], "sum"), 16, 16, "y")
    net.output("y", [1, "batch", 16])
    made = qcompile.compile(net.save(tmp_path / "m.onnx"))
    assert made.content["coverage"] == 1
