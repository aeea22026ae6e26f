# SPDX-License-Identifier: Apache-2.0
"""Artifacts load and run in older releases of onnxruntime, which have their own interpreters.

QC_ORT_PYTHONS=/venvs/1.20.1/bin/python:/venvs/1.23.2/bin/python pytest -m slow …
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import qcompile
from models.zoo import ZOO
from models.zoo.samples import samples
from tests.models.test_zoo_artifacts import LOST_DB
from tests.models.zoo_runs import TEST, compiled, float_outputs, outputs, sqnr

PYTHONS = [p for p in os.environ.get("QC_ORT_PYTHONS", "").split(os.pathsep) if p]
CASES = [
    (name, preset, target)
    for name, entry in ZOO.items()
    for target in ("cpu", "ort")
    for preset in (("w8a8",) if entry.kind == "cnn" else ("w8a8", "w4a16"))
]
# In onnxruntime 1.21 to 1.24 MatMulIntegerToFloat is wrong where N is no multiple of 16; of these
# models only the tagger's 20 tags reach it.
WRONG_THERE = {("tagger", "w8a8", "ort", (1, minor)) for minor in (21, 22, 23, 24)}
PLAIN_RUN = """
import glob, sys, numpy, onnxruntime
folder, given, found = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
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
        command = [python, "-c", PLAIN_RUN, run.artifact.folder, given, found]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if number(version) < oldest:
            assert done.returncode == 1, f"{version} runs it"  # an exception, no crash
            continue
        assert done.returncode == 0, f"{version}: {done.stderr}"
        with np.load(found) as stored:
            there = [stored[key].astype(np.float64) for key in stored.files]
        is_right = sqnr(expected, there) >= here - LOST_DB
        assert is_right != ((name, preset, target, number(version)) in WRONG_THERE), version


def release(python: str) -> str:
    """The version of onnxruntime that an interpreter has."""
    code = "import importlib.metadata as m; print(m.version('onnxruntime'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


def number(version: str) -> tuple[int, ...]:
    """1.20.1 is (1, 20)."""
    return tuple(int(part) for part in version.split(".")[:2])
