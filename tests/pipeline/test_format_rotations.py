# SPDX-License-Identifier: Apache-2.0
"""Weights in formats of turned rows: the artifact is the product with what the codes are worth."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile import targets
from qcompile.annotate import annotate
from qcompile.compile import compile
from qcompile.errors import InputError
from qcompile.format_rotations import rounds_of, turn_formats
from qcompile.formats import get
from qcompile.normalise import normalise
from qcompile.observers.weight_range import code_weight
from qcompile.recipe import Recipe
from qcompile.spec import QuantSpec
from tests.passes.stages import with_weights

NAMES = ("itq3", "itq3_ternary", "tq1", "tq2", "tq3", "tq4")
ONE = "f (float[b,KK] x, float w) => (float[b,24] y) { y = MatMul (x, w) }"
TWO = """f (float[b,KK] x, float w, float v) => (float[b,24] y, float[b,24] z) {
  y = MatMul (x, w) z = MatMul (x, v) }"""
EDGES = {"weight_rounding": "nearest", "bias_correction": False}


def saved(folder: Path, text: str, size: int) -> tuple[Path, np.ndarray]:
    """The model's file, and the weight of y [24, size]."""
    shapes = {name: (size, 24) for name in ("w", "v") if f"float {name}" in text}
    model = with_weights(text.replace("KK", str(size)), **shapes)
    ir.save(model, folder / "model.onnx")
    return folder / "model.onnx", model.graph.initializers["w"].const_value.numpy().T


def made(folder: Path, text: str, size: int, name: str, preset: str = "w3a16"):
    """The artifact's session and content, and the weight; no data, as none is needed."""
    path, weight = saved(folder, text, size)
    recipe = Recipe(preset=preset, weight_format=name, **EDGES)
    artifact = compile(path, output=folder / "out", recipe=recipe)
    return qcompile.load(folder / "out", trust_library=True), artifact, weight


@pytest.mark.parametrize("size", [2, 3, 64, 172, 256, 300, 512])
@pytest.mark.parametrize("name", NAMES)
def test_the_artifact_is_the_product_of_the_decoded_weight(
    tmp_path: Path, name: str, size: int
) -> None:
    session, artifact, weight = made(tmp_path, ONE, size, name)
    (given,) = session.run(None, {"x": np.eye(size, dtype=np.float32)})
    turned = weight.astype(np.float64)
    for rotation in rounds_of(get(name), size, Recipe().seed):
        turned = rotation.times(turned)
    narrow, format = turned.astype(np.float32), get(name)
    assert format.turns is not None
    is_row = not format.turns.block
    spec = (
        QuantSpec(format, "axis", 0) if is_row else QuantSpec(format, "block", 1, 256, True, "f16")
    )
    coded = code_weight(narrow, spec, "norm" if is_row else "mse").decode()
    # ‖w − ŵ‖ = ‖u − û‖: the kernel's floats round sums of K products of a rotation and of a weight
    noise, wanted = (float(np.linalg.norm(a - b)) for a, b in ((given.T, weight), (coded, turned)))
    bound = 2.0**-23 * (size + 24) * float(np.linalg.norm(weight))
    assert abs(noise - wanted) <= bound < wanted
    x = np.random.default_rng(2).standard_normal((5, size)).astype(np.float32)
    found = session.run(None, {"x": x})[0]
    sums = np.abs(x) @ np.abs(given) + np.linalg.norm(x, axis=1, keepdims=True)
    assert (np.abs(found - x @ given) <= 2.0**-23 * 2 * (size + 24) * sums).all()
    assert str(spec) == artifact.content["nodes"][0]["weight"]
    (row,) = artifact.content["rotations"]
    assert (row["is_applied"], row["is_online"]) == (True, True)
    assert row["reason"] == f"format {name}"


@pytest.mark.parametrize(
    ("text", "name", "ops"),
    [
        (ONE, "itq3", ["QMatMul"]),
        (ONE, "tq3", ["Hadamard", "QMatMul"]),
        (TWO, "itq3", ["Hadamard", "QMatMul", "QMatMul"]),
        (TWO, "tq3", ["Hadamard", "Hadamard", "QMatMul", "QMatMul"]),
    ],
)
@pytest.mark.parametrize("preset", ["w3a16", "w3a8-dynamic", "w3a4-dynamic"])
def test_a_rotation_is_computed_once(
    tmp_path: Path, text: str, name: str, ops: list[str], preset: str
) -> None:
    session, artifact, weight = made(tmp_path, text, 172, name, preset)
    assert sorted(n.op_type for n in artifact.model().graph) == ops
    x = np.random.default_rng(4).standard_normal((33, 172)).astype(np.float32)
    found, wanted = session.run(None, {"x": x})[0], x @ weight.T
    assert ((found - wanted) ** 2).sum() < 0.08 * (wanted**2).sum()  # 3 bits, 4 of activations


def test_other_ops_have_the_format_of_the_preset(tmp_path: Path) -> None:
    text = """f (int64[b,t] ids, float e, float w) => (float[b,t,40] y) {
      x = Gather (e, ids) h = MatMul (x, w) et = Transpose <perm = [1, 0]> (e)
      y = MatMul (h, et) }"""
    model = normalise(with_weights(text, e=(40, 64), w=(64, 64)))
    recipe = Recipe(preset="w3a16", weight_format="itq3")
    plan = annotate(model, recipe, targets.get("cpu"), has_data=False)
    found = {p.op_type + p.weight_name[:1]: str(p.weight) for p in plan.nodes.values()}
    assert found["Gathere"] == found["MatMule"]  # the tied table is no turned one
    assert found["MatMulw"] == "itq3/block(axis=1,size=256)/sym/f16"
    turned = turn_formats(model, plan, recipe)
    assert turned.is_changed and len(turned.rows) == 1
    plain = annotate(model, Recipe(preset="w3a16"), targets.get("cpu"), has_data=False)
    assert turn_formats(model, plain, Recipe(preset="w3a16")).model is model


@pytest.mark.parametrize(
    ("preset", "target", "reason"),
    [
        (
            "w3a8",
            "cpu",
            'MatMul "MatMul_y": itq3 turns inputs at run time, which codes are no more: use '
            "a8-dynamic (preset w3a8)",
        ),
        (
            "w4a16",
            "ort",
            'MatMul "MatMul_y": ONNX Runtime has no kernel for itq3: use --target cpu '
            "(preset w4a16)",
        ),
    ],
)
def test_where_no_input_can_be_turned(preset: str, target: str, reason: str) -> None:
    model = normalise(with_weights(ONE.replace("KK", "64"), w=(64, 24)))
    recipe = Recipe(preset=preset, weight_format="itq3")
    with pytest.raises(InputError) as error:
        annotate(model, recipe, targets.get(target), has_data=True)
    assert str(error.value) == reason
