# SPDX-License-Identifier: Apache-2.0
"""Networks that were trained at few bits, as float files, and their artifacts."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qcompile
from models import digits, iroots_digits, ternary_digits
from models.files import FOLDER, open_session, sha256
from qcompile.artifact import Artifact
from qcompile.recipe import Recipe

PATHS = {"ternary": ternary_digits.path(), "binary": iroots_digits.path()}
NODES = {"ternary": 6, "binary": 4}  # convolutions; two products of both complex layers
EACH = pytest.mark.parametrize("format", PATHS)


@EACH
def test_sha256_and_accuracy_match_readme(format: str) -> None:
    text, path = (FOLDER / "README.md").read_text(), PATHS[format]
    assert f"| `{path.name}` | {path.stat().st_size:,} | `{sha256(path)}` |" in text
    accuracy = digits.accuracy(open_session(path))
    line = next(line for line in text.splitlines() if f"| `{path.name}" in line)
    assert f"test accuracy **{accuracy:.2f} %**" in line


def test_weights_have_three_values() -> None:
    graph = onnx.load(PATHS["ternary"]).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kernels = [values[n.input[1]] for n in graph.node if n.op_type == "Conv"]
    sizes = [len(np.unique(np.abs(kernel[kernel != 0]))) for kernel in kernels]
    assert sizes[1:] == [1] * NODES["ternary"] and sizes[0] > 100


def compiled(format: str, preset: str, folder: Path) -> Artifact:
    return qcompile.compile(
        PATHS[format],
        recipe=Recipe(preset),
        output=folder / "m.qc",
        calibration_data={"image": digits.data("calibration")[0]},
    )


@EACH
@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_weights_run_as_they_were_trained(format: str, preset: str, tmp_path: Path) -> None:
    """Within 2 points of the float network; of 32 bits a weight one to two are left."""
    artifact = compiled(format, preset, tmp_path)
    nodes = [row for row in artifact.content["nodes"] if row["weight"].startswith(f"{format}/")]
    assert len(nodes) == NODES[format]
    accuracy = digits.accuracy(qcompile.load(tmp_path / "m.qc"))
    assert accuracy >= digits.accuracy(open_session(PATHS[format])) - 2
    assert sum(row["packed_bytes"] for row in nodes) < 0.07 * PATHS[format].stat().st_size
