# SPDX-License-Identifier: Apache-2.0
"""Token 0 apart: the float model stays, int8 gains, and nothing is split without a gain."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile import targets
from qcompile.annotate import annotate
from qcompile.compile import compile
from qcompile.data import Batch, Data
from qcompile.division import Division
from qcompile.first_row import constant_first_row
from qcompile.graph import TOKEN
from qcompile.normalise import normalise
from qcompile.outlier_token import APART, FOLDED, INTEGER, KIND, Split, apart, split_token
from qcompile.products import fused_end
from qcompile.recipe import Recipe
from qcompile.rotation_rows import RotationRow
from qcompile.session import open_model, session_options
from qcompile.token_parts import Divided, split_first
from qcompile.token_samples import collect
from qcompile.verify_normalised import check_rotated
from tests.passes.stages import ops, with_weights

LAYER = """f (float[b,t,16] x, float w, float c, float v, float d) => (float[b,t,12] y) {
  a = MatMul (x, w)  ac = Add (a, c)  r = Relu (ac)  n = LayerNormalization <axis = -1> (r, g, h)
  m = MatMul (n, v)  y = Add (m, d) }"""
SHAPES = {"w": (16, 24), "c": (24,), "v": (24, 12), "d": (12,)}


def layer(text: str = LAYER, **more: tuple[int, ...]) -> ir.Model:
    """Two products with a norm between, so that every token counts alike in the result."""
    ones = " <float[24] g = {" + ", ".join(["1"] * 24) + "}, float[24] h = {"
    head, body = text.split(" {", 1)
    return with_weights(head + ones + ", ".join(["0"] * 24) + "}> {" + body, **SHAPES, **more)


def tokens(factor: float, samples: int = 16, count: int = 33) -> np.ndarray:
    """Normal tokens [samples, count, 16], the first one so many times as large."""
    x = np.random.default_rng(3).standard_normal((samples, count, 16)).astype(np.float32)
    x[:, 0] *= factor
    return x


def split(model: ir.Model, x: np.ndarray, **recipe: object) -> Split:
    chosen = Recipe(**({"preset": "w8a8"} | recipe))  # type: ignore[arg-type]
    target = targets.get("cpu")
    plan = annotate(model, chosen, target, has_data=True)
    return split_token(model, plan, chosen, target, Data([{"x": x}], Batch({"x": 0})), Division())


def save(model: ir.Model, folder: Path) -> Path:
    path = folder / "model.onnx"
    ir.save(model, path)
    return path


def decibels(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


def run(path: Path, folder: Path, x: np.ndarray, **recipe: object) -> tuple[np.ndarray, dict]:
    """What the artifact gives for x, and its manifest; calibrated on other samples."""
    data = [{"x": tokens(50.0)}] if "data" not in recipe else recipe.pop("data")
    chosen = Recipe(**({"preset": "w8a8", "edge_bits": 8} | recipe))  # type: ignore[arg-type]
    artifact = compile(path, output=folder, recipe=chosen, calibration_data=data)
    session = qcompile.load(folder, trust_library=True)
    return session.run(None, {"x": x})[0], artifact.content


@pytest.mark.parametrize("count", [2, 3, 33])
def test_the_float_model_stays(count: int) -> None:
    model = normalise(layer())
    x = tokens(50.0, count=count)
    found = split(model, x)
    assert [row.is_applied for row in found.rows if row.transform] == [True]
    assert ops(found.model).count("Slice") == 2 and ops(found.model).count("MatMul") == 3
    check = check_rotated(model, found.model, Data([{"x": x}], Batch({"x": 0})))
    assert check.passed and check.measured >= 0
    for each in (x[:, :1], x[:3, :2]):  # no other token, and another batch
        assert check_rotated(model, found.model, Data([{"x": each}], Batch({"x": 0}))).passed


def test_another_weight_for_the_others_fails() -> None:
    model, x = normalise(layer()), tokens(50.0)
    found = split(model, x).model
    node = next(n for n in found.graph if n.op_type == "MatMul" and TOKEN in n.metadata_props)
    others = next(n for n in found.graph if n.name == node.name.removesuffix("/first"))
    assert node.inputs[1] is others.inputs[1]  # one tensor
    others.replace_input_with(1, ir.Value(name="wrong"))
    weight = others.inputs[1]
    right = node.inputs[1].producer().inputs[0].const_value.numpy().T.copy()
    right[3, 5] += 0.5
    weight.const_value = ir.tensor(right, name="wrong")
    weight.shape, weight.type = ir.Shape(right.shape), ir.TensorType(ir.DataType.FLOAT)
    found.graph.register_initializer(weight)
    assert not check_rotated(model, found, Data([{"x": x}], Batch({"x": 0}))).passed


def test_int8_gains_15_db_on_the_artifact(tmp_path: Path) -> None:
    path = save(layer(), tmp_path)
    x = np.random.default_rng(9).standard_normal((8, 33, 16)).astype(np.float32)
    x[:, 0] *= 50
    wanted = open_model(ir.load(path), session_options(1)).run(None, {"x": x})[0]
    plain, before = run(path, tmp_path / "plain", x, rotation="off")
    apart, after = run(path, tmp_path / "apart", x)
    assert decibels(wanted, apart) >= decibels(wanted, plain) + 15
    assert decibels(wanted[:, 1:], apart[:, 1:]) >= decibels(wanted[:, 1:], plain[:, 1:]) + 15
    assert before["rotations"] == []
    row, other = (r for r in after["rotations"] if r["kind"] == KIND)
    assert (row["value"], row["transform"], row["is_applied"]) == ("x", APART, True)
    assert row["reason"] == "its largest value is 47 times that of the others"
    assert other["reason"] == (
        "its largest value is 0.88 times that of the other tokens; 2 times is asked"
    )
    why = after["float_nodes"]
    assert why["r/Concat"] == "Concat: token 0 of its result needs a scale of its own"
    assert why["x_first/Slice"] == "Slice: token 0 and the others have scales of their own"


@pytest.mark.parametrize("factor", [0.02, 1.0, 1.7])
def test_nothing_is_split_where_the_tokens_are_alike(factor: float) -> None:
    model = normalise(layer())
    found = split(model, tokens(factor))
    (row,) = found.rows
    assert found.model is model and not row.is_applied and row.value == "2 inputs"
    assert row.reason.endswith("2 times is asked")


def test_nothing_is_split_where_the_products_are_good_enough() -> None:
    found = split(normalise(layer()), tokens(2.5))
    (row,) = (r for r in found.rows if r.transform)
    assert not row.is_applied and "are enough" in row.reason


def test_without_gain_nothing_is_split() -> None:
    """Token 0 is an outlier, and the others are zeros but for a few rows that one scale holds."""
    x = tokens(8.0, count=3)
    found = split(normalise(layer()), x, preset="w2a8", edge_bits=2)  # the weight's error is all
    (row,) = (r for r in found.rows if r.transform)
    assert not row.is_applied and "25 % less is asked" in row.reason


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        ({"rotation": "off"}, []),
        ({"preset": "w8a8-dynamic"}, []),  # every token has a scale
        ({"preset": "w4a16"}, []),
        ({"integer_only": True}, [INTEGER]),
    ],
)
def test_where_nothing_is_looked_at(recipe: dict, rows: list[str]) -> None:
    text = LAYER.replace("n = LayerNormalization <axis = -1> (r, g, h)", "n = Relu (r)")
    found = split(normalise(layer(text)), tokens(50.0), **recipe)
    assert [row.reason for row in found.rows] == rows
    assert not any(row.is_applied for row in found.rows)


def test_a_value_that_other_ops_read_as_codes_stays_whole() -> None:
    """r is read by a product and by a sum of codes."""
    text = LAYER.replace("n = LayerNormalization <axis = -1> (r, g, h)", "q = MatMul (r, u)")
    text = text.replace("float d)", "float d, float u)")
    text = text.replace("m = MatMul (n, v)", "n = Add (q, r) m = MatMul (n, v)")
    model, recipe, target = normalise(layer(text, u=(24, 24))), Recipe("w8a8"), targets.get("cpu")
    plan = annotate(model, recipe, target, has_data=True)
    data, row = Data([{"x": tokens(1.0)}], Batch({"x": 0})), RotationRow("r", KIND, ("MatMul_q",))
    spec = plan.activations["x"]
    seen = collect(model, dict.fromkeys("xrq", spec), data, Division(), recipe)
    rows = [replace(row, is_applied=True, reason="far")]
    found, after, (row,) = apart(model, plan, recipe, target, rows, seen)
    assert found is model and after is plan and not row.is_applied
    assert row.reason == "far, but other ops read it as codes of one scale"


CLASS = """f (float[b,8,16] p, float k, float e, float w, float c, float v, float d) =>
  (float[b,9,12] y) { SIZE s = Concat <axis = 1> (kb, p)  x = Add (s, e)  MIDDLE }"""
SIZE = """sz = Shape (p) z = Constant <value = int64[1] {0}> ()
  o = Constant <value = int64[1] {1}> () bn = Slice (sz, z, o)
  f = Constant <value = int64[2] {1, 16}> () full = Concat <axis = 0> (bn, f)
  kb = Expand (k, full)"""
MIDDLE = LAYER.split("{", 1)[1].rsplit("}", 1)[0]


def class_token() -> ir.Model:
    text = CLASS.replace("SIZE", SIZE).replace("MIDDLE", MIDDLE)
    return layer(text, k=(1, 1, 16), e=(1, 9, 16))


def patches(model: ir.Model, factor: float) -> dict[str, np.ndarray]:
    """Patches; the class token becomes so many times as large."""
    held = model.graph.initializers["k"]
    held.const_value = ir.tensor((held.const_value.numpy() * factor).astype(np.float32), name="k")
    return {"p": np.random.default_rng(1).standard_normal((16, 8, 16)).astype(np.float32)}


def test_a_class_token_is_folded(tmp_path: Path) -> None:
    model = class_token()
    feed = patches(model, 100.0)
    path = save(model, tmp_path)
    wanted = open_model(ir.load(path), session_options(1)).run(None, feed)[0]
    chosen = Recipe(preset="w8a8")
    artifact = compile(path, output=tmp_path / "out", recipe=chosen, calibration_data=[feed])
    (row,) = (r for r in artifact.content["rotations"] if r["transform"] == FOLDED)
    assert row["value"] == "x" and row["is_applied"]
    assert [n["node"] for n in artifact.content["nodes"]] == ["MatMul_a", "MatMul_m"]
    found = qcompile.load(tmp_path / "out", trust_library=True).run(None, feed)[0]
    assert decibels(wanted, found) > 35
    one = {"p": feed["p"][:1]}  # another batch
    assert qcompile.load(tmp_path / "out", trust_library=True).run(None, one)[0].shape[0] == 1


def test_a_constant_token_becomes_codes_where_the_others_are() -> None:
    """The result is alike for all tokens: it stays in codes, and so does the constant."""
    model = normalise(class_token())
    plan = annotate(model, Recipe(preset="w8a8"), targets.get("cpu"), has_data=True)
    value = next(v for n in model.graph for v in n.outputs if v.name == "x")
    node = next(use.node for use in value.uses() if use.node.op_type == "MatMul")
    split_first(value, [Divided(node, constant_first_row(model, fused_end(node)))])
    plan = annotate(model, Recipe(preset="w8a8"), targets.get("cpu"), has_data=True)
    assert {"r", "r_first", "r_others"} <= plan.activations.keys()
    assert plan.leaders["r_first"] == plan.leaders["r_others"] == "r"


def test_token_0_has_8_bits_where_the_others_have_4(tmp_path: Path) -> None:
    path = save(layer(), tmp_path)
    chosen = Recipe(preset="w4a4", edge_bits=4)
    out = tmp_path / "out"
    artifact = compile(path, output=out, recipe=chosen, calibration_data=[{"x": tokens(50.0)}])
    nodes = {n["node"]: n for n in artifact.content["nodes"]}
    first, others = nodes["MatMul_a/first"], nodes["MatMul_a"]
    assert first["activation"].startswith("uint8") and others["activation"].startswith("uint4")
    assert first["weight"] == others["weight"] and first["weight"].startswith("int4")
    packed = [name for name in artifact.model().graph.initializers if name.startswith("w")]
    assert sum(name.endswith("_packed") for name in packed) <= 1  # one tensor
    one = qcompile.load(out, trust_library=True).run(None, {"x": tokens(50.0)[:2, :1]})[0]
    assert one.shape == (2, 1, 12)


def test_a_fixed_batch_of_one_needs_no_expand() -> None:
    text = LAYER.replace("float[b,t,16] x", "float[1,8,16] p, float k").replace("b,t", "1,9")
    text = text.replace("{\n  a =", "{ x = Concat <axis = 1> (k, p) a =")
    model = normalise(layer(text, k=(1, 1, 16)))
    feed = patches(model, 100.0)
    chosen, target = Recipe(preset="w8a8"), targets.get("cpu")
    plan = annotate(model, chosen, target, has_data=True)
    data = Data([{"p": each[None]} for each in feed["p"]], Batch({"p": 1}))
    found = split_token(model, plan, chosen, target, data, Division())
    assert [row.transform for row in found.rows if row.is_applied] == [FOLDED]
    assert "Expand" not in ops(found.model) and ops(found.model).count("Slice") == 1
    assert check_rotated(model, found.model, data).passed
