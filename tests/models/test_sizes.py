# SPDX-License-Identifier: Apache-2.0
"""model.onnx and model.onnx.data at w8a8 against the float file; library and manifest are apart.

The zoo's full models are measured where they are compiled, in test_zoo_artifacts.py.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import qcompile
from models import digits
from qcompile import measure

MOST = 0.30  # of the float file
DATA = os.environ.get("QC_DATA")
REAL = {
    "cifar_resnet/resnet20_cifar10.onnx": MOST,
    "cifar_resnet/resnet56_cifar10.onnx": MOST,
    "mlperf_tiny/resnet8_cifar10.onnx": MOST,
    "mlperf_tiny/ds_cnn_kws.onnx": 0.36,  # its weights are small beside its graph
    "squeezenet1.1/squeezenet1.1.onnx": MOST,
}


@pytest.fixture(autouse=True)
def measured_for_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


def share(artifact: qcompile.Artifact) -> float:
    """Bytes of the compiled model and its weights ÷ those of the float file."""
    return artifact.model_bytes / artifact.content["source"]["bytes"]


def test_library_and_manifest_are_apart(tmp_path: Path) -> None:
    artifact = qcompile.compile(
        digits.path(),
        output=tmp_path / "digits.qc",
        recipe=qcompile.Recipe(preset="w8a8"),
        calibration_data={"image": digits.data("calibration")[0][:16]},
    )
    held = {p.name: p.stat().st_size for p in artifact.folder.iterdir()}
    assert artifact.model_bytes == held["model.onnx"] + held["model.onnx.data"]
    assert set(held) == {"model.onnx", "model.onnx.data", "manifest.json", "libqcompile_ops.so"}


@pytest.mark.skipif(DATA is None, reason="QC_DATA is not set")
@pytest.mark.parametrize(("name", "most"), REAL.items())
def test_real_models(name: str, most: float, tmp_path: Path) -> None:
    path = Path(str(DATA)) / name
    (value,) = onnx.load(path).graph.input
    dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    images = np.random.default_rng(0).standard_normal((2, *dims[1:]), dtype=np.float32)
    artifact = qcompile.compile(
        path,
        output=tmp_path / "out.qc",
        recipe=qcompile.Recipe(preset="w8a8"),
        calibration_data={value.name: images},
    )
    assert share(artifact) <= most
