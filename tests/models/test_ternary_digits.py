# SPDX-License-Identifier: Apache-2.0
"""models/ternary_digits.onnx, a network trained with ternary weights, and its artifact."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qcompile
from models import digits, ternary_digits
from models.files import FOLDER, open_session, sha256
from qcompile.recipe import Recipe

TERNARY = 6  # convolutions


def test_sha256_and_accuracy_match_readme() -> None:
    text, path = (FOLDER / "README.md").read_text(), ternary_digits.path()
    assert f"| `ternary_digits.onnx` | {path.stat().st_size:,} | `{sha256(path)}` |" in text
    accuracy = digits.accuracy(open_session(path))
    line = next(line for line in text.splitlines() if "`ternary_digits" in line)
    assert f"test accuracy **{accuracy:.2f} %**" in line


def test_weights_have_three_values() -> None:
    graph = onnx.load(ternary_digits.path()).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kernels = [values[n.input[1]] for n in graph.node if n.op_type == "Conv"]
    sizes = [len(np.unique(np.abs(kernel[kernel != 0]))) for kernel in kernels]
    assert sizes[1:] == [1] * TERNARY and sizes[0] > 100


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-dynamic"])
def test_its_weights_run_as_ternary_codes(preset: str, tmp_path: Path) -> None:
    """BitNet b1.58 Reloaded: within 2 points of the float network, in 1.6 bits a weight."""
    artifact = qcompile.compile(
        ternary_digits.path(),
        recipe=Recipe(preset),
        output=tmp_path / "m.qc",
        calibration_data={"image": digits.data("calibration")[0]},
    )
    nodes = [row for row in artifact.content["nodes"] if row["weight"].startswith("ternary/")]
    assert len(nodes) == TERNARY
    accuracy = digits.accuracy(qcompile.load(tmp_path / "m.qc"))
    assert accuracy >= digits.accuracy(open_session(digits.path())) - 2
    stored = sum(row["packed_bytes"] for row in nodes)
    assert stored < 0.06 * ternary_digits.path().stat().st_size
