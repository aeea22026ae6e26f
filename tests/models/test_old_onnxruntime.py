# SPDX-License-Identifier: Apache-2.0
"""Artifacts load and run in older releases of onnxruntime, which have their own interpreters.

QC_ORT_PYTHONS=/venvs/1.20.1/bin/python:/venvs/1.23.2/bin/python pytest -m slow …
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import qcompile
from models.zoo import ZOO
from models.zoo.samples import samples
from qcompile.passes.lower.insert_columns_into_matmul_integer import is_wrong_with_amx
from qcompile.session import _has_vnni
from tests.models.test_zoo_artifacts import LOST_DB
from tests.models.zoo_runs import TEST, compiled, float_outputs, outputs, sqnr
from tests.passes.stages import with_weights

PYTHONS = [p for p in os.environ.get("QC_ORT_PYTHONS", "").split(os.pathsep) if p]
CASES = [
    (name, preset, target)
    for name, entry in ZOO.items()
    for target in ("cpu", "ort")
    for preset in (("w8a8",) if entry.kind == "cnn" else ("w8a8", "w4a16"))
]
PLAIN_RUN = """
import glob, sys, numpy, onnxruntime
folder, given, found, precision = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.x64quantprecision", precision)
for library in glob.glob(folder + "/*.so"):
    options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(folder + "/model.onnx", options)
numpy.savez(found, *session.run(None, dict(numpy.load(given))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not PYTHONS, reason="QC_ORT_PYTHONS lists no Python with an older onnxruntime")
@pytest.mark.parametrize(("name", "preset", "target"), CASES)
def test_runs(name: str, preset: str, target: str, tmp_path: Path) -> None:
    """As near to the float model as in the installed release, which may fuse more or less."""
    run = compiled(name, preset, target, tmp_path)
    feed = samples(run.source, 4, TEST)
    expected = float_outputs(run, feed)
    here = sqnr(expected, outputs(qcompile.load(run.artifact.folder, threads=1), feed))
    given, found = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(given, **feed)
    oldest = number(run.artifact.content["onnx"]["oldest_onnxruntime"])
    for python in PYTHONS:
        version = release(python)
        precision = "0" if _has_vnni() else "1"  # as qcompile.load
        command = [python, "-c", PLAIN_RUN, run.artifact.folder, given, found, precision]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if number(version) < oldest:
            assert done.returncode == 1, f"{version} runs it"  # an exception, no crash
            continue
        assert done.returncode == 0, f"{version}: {done.stderr}"
        with np.load(found) as stored:
            there = [stored[key].astype(np.float64) for key in stored.files]
        assert sqnr(expected, there) >= here - LOST_DB, version


@pytest.mark.parametrize("columns", [16, 20, 31, 32, 40])
@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_columns_that_old_releases_get_wrong(columns: int, preset: str, tmp_path: Path) -> None:
    """No product has N % 32 above 16, and so any release will do."""
    net = with_weights(
        f"""f (float[b,8] x, float w, float k) => (float[b,{columns}] y)
        {{ t = MatMul (x, w)   y = Add (t, k) }}""",
        w=(8, columns), k=(columns,),
    )  # fmt: skip
    del net.opset_imports["com.qcompile"], net.opset_imports["com.microsoft"]
    ir.save(net, tmp_path / "net.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)}
    artifact = qcompile.compile(
        tmp_path / "net.onnx",
        "ort",
        recipe=qcompile.Recipe(preset=preset),
        calibration_data=data if preset == "w8a8" else None,
    )
    assert artifact.content["onnx"]["oldest_onnxruntime"] == "1.17"
    products = [n for n in artifact.model().graph if n.op_type in ("MatMulInteger", "MatMul")]
    assert [is_wrong_with_amx(n.inputs[1].shape[-1]) for n in products] == [False]


def release(python: str) -> str:
    """The version of onnxruntime that an interpreter has."""
    code = "import importlib.metadata as m; print(m.version('onnxruntime'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def number(version: str) -> tuple[int, ...]:
    """1.20.1 is (1, 20)."""
    return tuple(int(part) for part in version.split(".")[:2])
