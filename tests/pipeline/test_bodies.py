# SPDX-License-Identifier: Apache-2.0
"""Weights inside If, Loop and Scan run from packed codes, and every rung looks at them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser

import qcompile
from qcompile.artifact import MODEL, WEIGHTS, Artifact
from qcompile.bodies import all_bodies, nodes_of
from qcompile.compile import plan_only
from qcompile.errors import VerificationError
from qcompile.reasons import why
from qcompile.recipe import Recipe, Rule
from qcompile.session import session_options
from qcompile.targets import get
from tests.body_nets import NETS, NODES, save
from tests.pipeline.nets import Net

PIPELINE = sys.modules["qcompile.compile"]
LEAST_DB = {"w8a8-dynamic": 25.0, "w8a8": 20.0, "w4a16": 10.0}  # 4 products in a row, untrained


def compiled(folder: Path, name: str, preset: str, target: str = "cpu", **more: Any) -> Artifact:
    feeds = save(folder / "m.onnx", name)
    data = feeds if preset == "w8a8" else None
    recipe = Recipe(preset=preset, **more)
    return qcompile.compile(
        folder / "m.onnx", target, recipe=recipe, calibration_data=data, force=True
    )


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    noise = float(((a - b) ** 2).sum())
    return 10 * float(np.log10((a**2).sum() / noise)) if noise else np.inf


@pytest.mark.parametrize(
    ("target", "preset"),
    [*(("cpu", preset) for preset in LEAST_DB), ("ort", "w8a8-dynamic"), ("ort", "w4a16")],
)
@pytest.mark.parametrize("name", NETS)
def test_bodies_run_from_codes(name: str, preset: str, target: str, tmp_path: Path) -> None:
    made = compiled(tmp_path, name, preset, target)
    rows = {r["node"]: r for r in made.content["nodes"]}
    assert sorted(rows) == sorted(NODES[name])
    left = [n for n, r in rows.items() if r["weight"] is None]
    assert left == (["Loop_y/body/MatMul_z"] if name == "carried" else [])
    assert made.content["coverage"] == (0.5 if name == "carried" else 1.0)
    floats = ort.InferenceSession(tmp_path / "m.onnx")
    session = qcompile.load(made.folder)
    for feed in save(tmp_path / "m.onnx", name):
        pairs = zip(floats.run(None, feed), session.run(None, feed), strict=True)
        assert min(decibels(a, b) for a, b in pairs) > LEAST_DB[preset]


def test_a_matrix_that_changes_stays_float(tmp_path: Path) -> None:
    """The other one, which every step hands on as it is, is a weight."""
    made = compiled(tmp_path, "carried", "w8a8-dynamic")
    reasons = {r["node"]: r["reason"] for r in made.content["nodes"]}
    assert reasons == {
        "Loop_y/body/MatMul_m": None,
        "Loop_y/body/MatMul_z": "its weight is carried by Loop Loop_y",
    }


def test_static_presets_are_dynamic_inside(tmp_path: Path) -> None:
    made = compiled(tmp_path, "if", "w8a8")
    kernels = [r["kernel"] for r in made.content["nodes"]]
    assert kernels == ["QMatMul static", "QMatMul dynamic", "QMatMul dynamic"]
    assert any("bodies of If, Loop and Scan have w8a8-dynamic" in n for n in made.content["notes"])


def test_rules_name_nodes_of_bodies(tmp_path: Path) -> None:
    rule = Rule("If_y/then_branch/.*", exclude=True, source="the rule")
    made = compiled(tmp_path, "if", "w8a8-dynamic", rules=(rule,))
    found = {r["node"]: r["reason"] for r in made.content["nodes"] if r["weight"] is None}
    assert found == {"If_y/then_branch/MatMul_m": "excluded by the rule"}


def test_a_branch_that_no_data_runs_is_checked_on_random_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    made = qcompile.compile(path, calibration_data=save(path, "if")[:1], recipe=Recipe("w4a16"))
    skipped = made.measured["skipped"]
    assert [s.split(" ")[0] for s in skipped] == ["If_y/else_branch"]
    assert "random" in skipped[0]
    counts = {c["rung"]: c["count"] for c in made.measured["checks"]}
    assert counts["pack"] == 3


def test_a_branch_without_weights_is_not_reported(tmp_path: Path) -> None:
    """Nor does it have to run on random inputs: no map of 7 becomes one of 8."""
    net = Net()
    x, c = net.input("x", ["batch", 32]), net.input("c", [], onnx.TensorProto.BOOL)
    a = net.linear(x, 32, 32, "a")
    seven = net.array("seven", np.array([-1, 7]))
    branches = {
        "then_branch": helper.make_node("Reshape", [a, seven], ["t"]),
        "else_branch": helper.make_node("Neg", [a], ["e"]),
    }
    graphs = {
        name: helper.make_graph(
            [node],
            name,
            [],
            [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)],
        )
        for name, node in branches.items()
    }
    net.node("If", [c], "y", **graphs)
    net.output("y", ["m", "n"])
    data = {"x": np.ones((4, 32), np.float32), "c": np.array(False)}
    made = qcompile.compile(net.save(tmp_path / "m.onnx"), calibration_data=data)
    assert not made.measured["skipped"]


def test_equal_weights_are_written_once(tmp_path: Path) -> None:
    """w is in the main graph and one branch, v in one: two of three packed tensors differ."""
    made = compiled(tmp_path, "nested", "w8a8-dynamic")
    packed = {r["packed_bytes"] for r in made.content["nodes"]}
    assert packed == {1152}
    assert (made.folder / WEIGHTS).stat().st_size == 2 * 1152


def test_plain_onnxruntime_runs_it(tmp_path: Path) -> None:
    made = compiled(tmp_path, "nested", "w4a16")
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(made.folder / "libqcompile_ops.so"))
    session = ort.InferenceSession(made.folder / MODEL, options)
    feed = save(tmp_path / "m.onnx", "nested")[0]
    assert np.array_equal(session.run(None, feed)[0], qcompile.load(made.folder).run(None, feed)[0])


def test_dry_run_and_why_know_the_nodes(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", "nested")
    recipe = Recipe(preset="w4a16")
    plan, model = plan_only(tmp_path / "m.onnx", "cpu", recipe)
    assert sorted(plan.nodes) == sorted(NODES["nested"])
    name = "Loop_y/body/If_z/else_branch/MatMul_k1"
    found = why(plan, model, recipe, get("cpu"), name)
    assert found["kernel"] == "QMatMul f32" and found["weight"].startswith("uint4")


def shift(suffix: str) -> Callable[[ir.Model], None]:
    """One number of an initializer of a body changes."""

    def change(model: ir.Model) -> None:
        graphs = [body.graph for body in all_bodies(model.graph)]
        held = {n: v for g in graphs for n, v in g.initializers.items() if n.endswith(suffix)}
        value = next(iter(held.values()))
        array = value.const_value.numpy().copy()
        array.flat[0] ^= 1
        value.const_value = ir.tensor(array, name=value.name)

    return change


def scale(model: ir.Model) -> None:
    """A weight of a body doubles, which the outputs of a branch that does not run cannot tell."""
    body = next(b for b in all_bodies(model.graph) if b.attribute == "else_branch")
    value = next(iter(body.graph.initializers.values()))
    value.const_value = ir.tensor(value.const_value.numpy() * 2, name=value.name)


TWINS = [
    ("normalise", scale, "normalise"),
    ("transform", shift("_codes"), "transform: weights"),
    ("lower", shift("_codes"), "lower: constants"),
    ("pack", shift("_packed"), "pack"),
]


@pytest.mark.parametrize(("stage", "change", "rung"), TWINS)
def test_one_wrong_number_in_a_body_is_found(
    stage: str, change: Callable, rung: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """The random inputs run the other branch."""
    real = getattr(PIPELINE, stage)

    def changed(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        change(result)
        return result

    monkeypatch.setattr(PIPELINE, stage, changed)
    path = tmp_path / "m.onnx"
    data = save(path, "if")[:1]
    with pytest.raises(VerificationError, match=rung):
        qcompile.compile(path, recipe=Recipe("w8a8-dynamic"), calibration_data=data)


def test_no_name_stands_for_two_values(tmp_path: Path) -> None:
    made = compiled(tmp_path, "if", "w8a8-dynamic")
    nodes = nodes_of(made.model())
    names = [v.name for n in nodes for v in n.outputs]
    assert len(set(names)) == len(names)


STATIC = """{ q = QuantizeLinear (s, xs, xz)   d = DequantizeLinear (q, xs, xz)
  u = DequantizeLinear (k, ws)   m = MatMul (d, u)"""
DYNAMIC = """{ q, qs, qz = DynamicQuantizeLinear (s)   i = MatMulInteger (q, k, qz)
  f = Cast <to = 1> (i)   a = Mul (qs, ws)   m = Mul (f, a)"""


def in_codes(path: Path, inside: str) -> dict[str, np.ndarray]:
    """A Loop whose body has a product in codes; |code| ≤ 60 keeps ONNX Runtime from saturating."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-60, 61, (32, 32)).astype(np.int8)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    f (float[4,32] x) => (float[4,32] y)
    <float xs = {{0.03}}, uint8 xz = {{128}}, float ws = {{0.002}}, int64 t = {{3}}>
    {{ y = Loop (t, , x) <body = b (int64 n, bool go, float[4,32] s)
        => (bool on, float[4,32] z) {inside}
        z = Tanh (m)   on = Identity (go) }}> }}"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(codes, "k"))
    model.graph.initializer.append(numpy_helper.from_array(codes.astype(np.float32), "w"))
    first = helper.make_node("MatMul", ["x", "w"], ["first"], "first")
    model.graph.node.append(first)
    model.graph.output.append(helper.make_tensor_value_info("first", 1, [4, 32]))
    onnx.save(model, path)
    return {"x": rng.standard_normal((4, 32)).astype(np.float32)}


@pytest.mark.parametrize("preset", [None, "w8a8-dynamic"])
@pytest.mark.parametrize("inside", [STATIC, DYNAMIC])
def test_codes_of_the_user_inside(inside: str, preset: str | None, tmp_path: Path) -> None:
    """Static pairs run from the user's codes; integer ops stay: outputs are the user's."""
    feed = in_codes(tmp_path / "m.onnx", inside)
    made = qcompile.compile(tmp_path / "m.onnx", recipe=Recipe(preset=preset))
    rows = {r["node"]: r["kernel"] for r in made.content["nodes"] if r["kernel"]}
    static = {"Loop_y/body/MatMul_m": "QMatMul static"} if inside is STATIC else {}
    is_first = preset is not None or inside is DYNAMIC
    assert rows == static | ({"first": "QMatMul dynamic"} if is_first else {})
    session = ort.InferenceSession(tmp_path / "m.onnx", session_options(optimise=False))
    wanted, found = session.run(None, feed), qcompile.load(made.folder).run(None, feed)
    one_code = 0.03 * 60 * 0.002  # of one element, times the largest weight
    assert np.abs(wanted[0] - found[0]).max() <= one_code < np.abs(wanted[0]).max() / 10
