# SPDX-License-Identifier: Apache-2.0
"""onnx's light models: old exports (opset 9) whose weights are made by ConstantOfShape."""

from pathlib import Path

import onnx
import pytest

import qcompile
from qcompile import measure

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# A few seconds; the others take up to minutes, and the largest has 144 million weights.
SMALL = ("light_squeezenet",)
LARGE = (
    *("light_bvlc_alexnet", "light_densenet121", "light_inception_v1", "light_inception_v2"),
    *("light_resnet50", "light_shufflenet", "light_vgg19", "light_zfnet512"),
)


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def test_all_are_here() -> None:
    assert sorted(p.stem for p in LIGHT.glob("*.onnx")) == sorted([*SMALL, *LARGE])


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]
)
def test_compiles(name: str, tmp_path: Path) -> None:
    artifact = qcompile.compile(
        LIGHT / f"{name}.onnx",
        output=tmp_path / "out.qc",
        recipe=qcompile.Recipe(preset="w8a8-dynamic"),
    )
    assert all(c["passed"] for c in artifact.measured["checks"])
    assert artifact.content["coverage"] >= 0.9
