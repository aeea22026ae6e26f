# SPDX-License-Identifier: Apache-2.0
"""BitMoD through the pipeline: sizes to the byte, every rounding, twins that verify refuses."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from qcompile.errors import VerificationError
from qcompile.graph import attribute, constant, is_constant
from qcompile.pack import weight_of_packed
from qcompile.passes.transform.rounding import ROUNDINGS
from qcompile.recipe import Recipe
from tests.pipeline.nets import cnn, mlp, samples, tied

PIPELINE = sys.modules["qcompile.compile"]


def compiled(name: str, preset: str, folder: Path, net=None, data: bool = True, **recipe):
    net = net or mlp()
    asked = Recipe(
        preset, weight_format=name, edge_bits=int(preset[1]), **{"effort": "quick", **recipe}
    )
    given = samples(net) if data else None
    return qcompile.compile(net.save(folder / "m.onnx"), recipe=asked, calibration_data=given)


@pytest.mark.parametrize(("name", "bits"), [("bitmod3", 3), ("bitmod4", 4)])
@pytest.mark.parametrize("block", [128, 32])
def test_bytes_are_those_of_the_formula(name: str, bits: int, block: int, tmp_path: Path) -> None:
    """Outputs in tiles of 16, columns of a block in chunks of 8, a scale of f16 and a byte each."""
    size = {} if block == 128 else {"block_size": block}
    artifact = compiled(name, f"w{bits}a16", tmp_path, **size)
    seen = 0
    for node in artifact.model().graph:
        if node.op_type != "QMatMul":
            continue
        n, k = int(attribute(node, "N")), int(attribute(node, "K"))
        chunk = 8 if bits == 4 else 32  # n16k4: 64 bytes of a tile's smallest field
        columns = [min(block, k - first) for first in range(0, k, block)]
        padded = sum(-(-c // chunk) * chunk for c in columns)
        tiles = -(-n // 16) * 16
        expected = tiles * padded * bits // 8 + tiles * len(columns) * 3
        data = constant(node.inputs[1])
        assert data is not None and data.nbytes == expected
        weight = weight_of_packed(node)
        assert set(np.unique(weight.zero_point)) <= set(weight.format.specials)
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("word", ROUNDINGS)
def test_every_rounding_takes_it(word: str, tmp_path: Path) -> None:
    artifact = compiled("bitmod3", "w3a8", tmp_path, weight_rounding=word)
    assert {r["weight"] for r in artifact.content["nodes"]} == {"bitmod3/axis(axis=0)/sym/f32"}
    assert all(check["passed"] for check in artifact.measured["checks"])


@pytest.mark.parametrize("method", ["minmax", "mse", "slim", "ggd"])
def test_every_way_to_find_scales_takes_it(method: str, tmp_path: Path) -> None:
    artifact = compiled("bitmod4", "w4a16", tmp_path, data=False, weight_scale_method=method)
    assert all(check["passed"] for check in artifact.measured["checks"])


def test_tables_that_gather_reads_and_depthwise_convolutions(tmp_path: Path) -> None:
    (tmp_path / "tied").mkdir()
    shared = compiled("bitmod4", "w4a16", tmp_path / "tied", tied())
    assert {"QGather", "QMatMul"} <= {node.op_type for node in shared.model().graph}
    assert all(r["weight"].startswith("bitmod4/") for r in shared.content["nodes"])
    static = compiled("bitmod4", "w4a8", tmp_path, cnn(), integer_only=True)
    assert {"kc/1", "n16k4p/1"} == {r["layout"] for r in static.content["nodes"]}
    assert all(r["weight"].startswith("bitmod4/") for r in static.content["nodes"])


def test_it_stays_dense(tmp_path: Path) -> None:
    artifact = compiled("bitmod4", "w4a16", tmp_path, sparsity="2:4")
    why = "sparse codes have 3 or 4 bits and one that is 0, and none that is special"
    assert any(f"3 of bitmod4: {why}" in note for note in artifact.content["notes"])


def test_a_cache_gives_the_same_codes(tmp_path: Path) -> None:
    net, recipe = mlp(), Recipe("w3a16", weight_format="bitmod3", edge_bits=3, effort="quick")
    path = net.save(tmp_path / "m.onnx")
    files = []
    for out in ("first", "again"):
        artifact = qcompile.compile(
            path,
            output=tmp_path / out,
            recipe=recipe,
            calibration_data=samples(net),
            calibration_cache=tmp_path / "c.npz",
        )
        files.append(artifact.content["files"])
    assert list((tmp_path / "c.npz.layers").iterdir())
    assert files[0] == files[1]


def other_special(part: int) -> Callable[[ir.Model], None]:
    """The special value of a block becomes its opposite; part: which input holds it."""

    def change(model: ir.Model) -> None:
        for node in model.graph:
            held = node.inputs[part] if len(node.inputs) > part else None
            if not attribute(node, "special_code", 0) or held is None or not is_constant(held):
                continue
            array = constant(held).copy()
            array *= -1
            held.const_value = ir.tensor(array, name=held.name)
            return

    return change


@pytest.mark.parametrize(
    ("stage", "part", "rung"),
    [("transform", 2, "transform: weights"), ("lower", 5, "lower: constants")],
)
def test_another_special_value_is_refused(
    stage: str, part: int, rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(PIPELINE, stage)

    def changed(*args, **kwargs):
        result = real(*args, **kwargs)
        other_special(part)(result)
        return result

    monkeypatch.setattr(PIPELINE, stage, changed)
    with pytest.raises(VerificationError) as caught:
        compiled("bitmod4", "w4a16", tmp_path, data=False)
    assert f"{rung}:" in str(caught.value) or f"{rung} " in str(caught.value)
