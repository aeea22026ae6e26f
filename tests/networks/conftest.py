# SPDX-License-Identifier: Apache-2.0
"""Artifacts of target tvm-cpu that several tests read; made once."""

from pathlib import Path

import numpy as np
import pytest

import qcompile
from tests.networks.nets import shortcut
from tests.pipeline.nets import samples


@pytest.fixture(scope="session")
def cpu_artifact(tmp_path_factory: pytest.TempPathFactory) -> qcompile.Artifact:
    """The residual net, batch 3."""
    pytest.importorskip("tvm", reason="TVM is not installed: make tvm")
    folder = tmp_path_factory.mktemp("network")
    net = shortcut()
    recipe = qcompile.Recipe(batch=3)
    model, data = net.save(folder / "net.onnx"), samples(net, 16)
    return qcompile.compile(model, "tvm-cpu", recipe=recipe, calibration_data=data)


@pytest.fixture(scope="session")
def expected(cpu_artifact: qcompile.Artifact) -> tuple[np.ndarray, np.ndarray]:
    """Seven samples, and what target cpu's integer-only artifact makes of them."""
    folder = Path(cpu_artifact.folder).parent
    recipe = qcompile.Recipe(preset="w8a8", integer_only=True)
    data = samples(shortcut(), 16)
    same = qcompile.compile(
        folder / "net.onnx", output=folder / "cpu.qc", recipe=recipe, calibration_data=data
    )
    x = samples(shortcut(), 7, seed=9)["x"]
    return x, qcompile.load(same.folder).run(None, {"x": x})[0]
