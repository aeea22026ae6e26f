# SPDX-License-Identifier: Apache-2.0
"""models/vit_digits.onnx is the file that models/README.md describes."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import qcompile
from models import digits, vit_digits
from models.files import FOLDER, open_session, sha256


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(vit_digits.path())


def test_sha256_matches_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    size = vit_digits.path().stat().st_size
    assert f"| `vit_digits.onnx` | {size:,} | `{sha256(vit_digits.path())}` |" in readme
    assert size <= 400_000


def test_accuracy_matches_readme() -> None:
    accuracy = digits.accuracy(open_session(vit_digits.path()))
    line = next(
        line for line in (FOLDER / "README.md").read_text().splitlines() if "`vit_digits" in line
    )
    assert f"test accuracy **{accuracy:.2f} %**" in line


def test_batch_size_is_free() -> None:
    images, _ = digits.data("test")
    session = open_session(vit_digits.path())
    (whole,) = session.run(["logits"], {"image": images[:5]})
    (single,) = session.run(["logits"], {"image": images[4:5]})
    assert whole.shape == (5, 10)
    np.testing.assert_allclose(single, whole[4:], rtol=1e-4, atol=1e-5)


def test_versions_and_interface(model: onnx.ModelProto) -> None:
    assert model.ir_version == 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 1, 8, 8]


def test_structure(model: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in model.graph.node)
    expected = {
        "Conv": 1,
        "LayerNormalization": 5,
        "MatMul": 12,
        "Gemm": 1,
        "Softmax": 2,
        "Gelu": 2,
    }
    assert {op: counts[op] for op in expected} == expected
    assert not any(node.metadata_props for node in model.graph.node)  # no paths of a machine


@pytest.mark.parametrize(
    ("preset", "target"),
    [("w8a8", "cpu"), ("w8a8-dynamic", "cpu"), ("w4a8", "cpu"), ("w8a8", "ort")],
)
def test_compiles(preset: str, target: str, tmp_path: Path) -> None:
    images, _ = digits.data("calibration")
    artifact = qcompile.compile(
        vit_digits.path(),
        target,
        tmp_path / "vit.qc",
        recipe=qcompile.Recipe(preset=preset),
        calibration_data={"image": images[:64]},
        limits=qcompile.Limits(max_drop=2.0),
        metric=digits.accuracy,
    )
    assert artifact.content["coverage"] == 1.0
