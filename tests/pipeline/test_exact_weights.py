# SPDX-License-Identifier: Apache-2.0
"""Weights that lie on a grid run packed without any error, and nothing else does."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import qcompile
from qcompile.exact_weights import RULE
from qcompile.pack import weight_of_packed
from qcompile.recipe import Recipe

F32 = np.float32
LEVELS = {"ternary": [-1, 0, 1], "binary": [-1, 1], "int4": list(range(-7, 8))}


def net(weights: list[np.ndarray]) -> onnx.ModelProto:
    """x → MatMul, Relu, … of weights [K, N]."""
    nodes, value = [], "x"
    for i, _ in enumerate(weights):
        nodes += [
            helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], f"m{i}"),
            helper.make_node("Relu", [f"m{i}"], [f"r{i}"], f"r{i}"),
        ]
        value = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", weights[0].shape[0]])],
        [helper.make_tensor_value_info(value, 1, None)],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def on_grid(name: str, rng: np.random.Generator, n: int = 96, k: int = 128) -> np.ndarray:
    """A weight [K, N] of the levels times a scale of every output."""
    whole = rng.choice(LEVELS[name], (n, k))
    whole[:, :2] = max(LEVELS[name]), 1
    return (whole.astype(F32) * rng.uniform(0.01, 0.1, (n, 1)).astype(F32)).T.copy()


def compiled(weights: list[np.ndarray], preset: str, folder: Path, **asked) -> qcompile.Artifact:
    onnx.save(net(weights), folder / "net.onnx")
    rng = np.random.default_rng(1)
    recipe = Recipe(preset, edge_bits=2, effort="quick", **asked)
    x = rng.standard_normal((64, 128)).astype(F32)
    return qcompile.compile(
        folder / "net.onnx", recipe=recipe, calibration_data={"x": x}, force=True
    )


@pytest.mark.parametrize("preset", ["w8a8", "w8a16", "w4a8-dynamic"])
@pytest.mark.parametrize("name", list(LEVELS))
def test_grids_stay_as_they_are(tmp_path: Path, name: str, preset: str) -> None:
    rng = np.random.default_rng(0)
    given = [on_grid(name, rng), rng.standard_normal((96, 40)).astype(F32) * F32(0.1)]
    found = compiled(given, preset, tmp_path)
    first, second = found.content["nodes"]
    assert first["weight"] == f"{name}/axis(axis=0)/sym/f32"
    assert first["decided_by"] == RULE and second["decided_by"] != RULE
    note = "weights that lie on a grid already, packed without any error: 1"
    assert note in found.content["notes"]
    model = ir.load(found.folder / "model.onnx")
    node = next(n for n in model.graph if n.name == first["node"])
    packed = weight_of_packed(node)
    if packed.scale is not None:  # a static product carries it in its multiplier
        assert np.array_equal(packed.decode(), given[0].T)
    else:
        scale = np.abs(given[0].T).max(1, keepdims=True) / max(LEVELS[name])
        real = packed.values() * scale
        np.testing.assert_allclose(real, given[0].T, rtol=2e-7)


def test_fewer_bits_or_a_format_that_is_asked_for_win(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [on_grid("int4", rng), on_grid("ternary", rng, 40, 96)]
    narrow = compiled(given, "w3a16", tmp_path)
    assert [r["decided_by"] == RULE for r in narrow.content["nodes"]] == [False, True]
    asked = compiled(given, "w8a16", tmp_path, weight_format="int5")
    assert not any(r["decided_by"] == RULE for r in asked.content["nodes"])


def test_sparsity_that_is_asked_for_wins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = [on_grid("int4", rng), on_grid("int4", rng, 40, 96)]
    found = compiled(given, "w4a16", tmp_path, sparsity="2:4")
    assert all(row["weight"].endswith("/2:4") for row in found.content["nodes"])
    assert not any(row["decided_by"] == RULE for row in found.content["nodes"])


def codebook(block: int = 64) -> np.ndarray:
    """A weight [K, N] of 16 levels times absmax of every block, as QLoRA's nf4 is written."""
    rng = np.random.default_rng(4)
    levels = np.sort(np.r_[-1, 0, 1, rng.uniform(-1, 1, 13)]).astype(F32)
    rows = rng.standard_normal((96 * 128 // block, block)).astype(F32)
    scale = np.abs(rows).max(1, keepdims=True)
    nearest = np.abs((rows / scale)[..., None] - levels).argmin(-1)
    return (levels[nearest] * scale * F32(0.125)).reshape(96, 128).T.copy()


@pytest.mark.parametrize("preset", ["w4a16", "w8a16"])
def test_a_codebook_stays_as_it_is(tmp_path: Path, preset: str) -> None:
    found = compiled([codebook()], preset, tmp_path)
    (layer,) = found.content["nodes"]
    assert layer["decided_by"] == RULE and "block(axis=1,size=64)" in layer["weight"]
    (node,) = (n for n in ir.load(found.folder / "model.onnx").graph if n.op_type == "QMatMul")
    packed = weight_of_packed(node)
    assert packed.format.bits == 4 and np.array_equal(packed.decode(), codebook().T)


def test_a_codebook_that_is_lost_is_named(tmp_path: Path) -> None:
    found = compiled([codebook()], "w4a8-dynamic", tmp_path)
    assert found.content["nodes"][0]["decided_by"] != RULE
    note = "w0_nk: it lies on a codebook of 16 levels, which integer products"
    assert [n for n in found.content["notes"] if n.startswith(note)]
