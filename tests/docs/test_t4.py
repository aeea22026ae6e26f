# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/t4.md run: Python's on a graph, C++'s inside an artifact."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qcompile
from tests.networks.nets import rows
from tests.pipeline.nets import samples

pytest.importorskip("tvm", reason="TVM is not installed: make tvm")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "t4.md").read_text(encoding="utf-8")
(PYTHON,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(CPP,) = re.findall(r"^```cpp\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_python_program(tmp_path: Path) -> None:
    (tmp_path / "edges.py").write_text(PYTHON)
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "edges.py"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_the_cpp_program(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    net = rows()
    artifact = qcompile.compile(
        net.save(tmp_path / "net.onnx"), "tvm-cpu", calibration_data=samples(net, 16)
    )
    (artifact.folder / "own.cc").write_text(CPP)
    build = ["g++", "-std=c++17", "own.cc", "-ldl", "-o", "own"]
    subprocess.run(build, cwd=artifact.folder, check=True)
    done = subprocess.run(
        ["./own"], cwd=artifact.folder, env={}, capture_output=True, text=True, check=True
    )
    found = np.array([line.split() for line in done.stdout.splitlines()], np.float64)
    session = qcompile.load(artifact.folder, trust_library=True)
    x = {"x": np.full((2, 24), 0.5, np.float32)}
    np.testing.assert_array_equal(found[:, 0], session.run(None, x, raw=True)[0].ravel())
    np.testing.assert_allclose(found[:, 1], session.run(None, x)[0].ravel(), rtol=1e-5)
