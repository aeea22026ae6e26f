# SPDX-License-Identifier: Apache-2.0
"""Every preset on both targets and both models of models/: compiled and verified, or refused."""

from pathlib import Path

import numpy as np
import pytest

import qcompile
from models import charlm, digits
from qcompile.errors import InputError
from qcompile.recipe import Preset, preset_names

NOTHING = "nothing to quantize: every weighted node stays in float"
# What stays in float because of the preset: (model, target, part of the preset's name) → reason.
NO_FLOAT_CONV = {
    "cpu": "Conv has no kernel for float activations: use a8-dynamic or a8",
    "ort": "ONNX Runtime has no Conv with low-bit weights and float activations",
}


def compiled(name: str, target: str, preset: str, folder: Path) -> qcompile.Artifact | str:
    """The artifact, or the refusal."""
    data: dict[str, np.ndarray]
    if name == "digits":
        path, data = digits.path(), {"image": digits.data("calibration")[0][:32]}
    else:
        path, data = charlm.path(), {"tokens": charlm.data("calibration")[:2]}
    recipe = qcompile.Recipe(preset=preset)
    try:
        return qcompile.compile(path, target, folder / "m.qc", recipe=recipe, calibration_data=data)
    except InputError as error:
        return str(error)


def is_refused(target: str, preset: Preset) -> bool:
    """ONNX Runtime has only activations of 8 bits, and float ones."""
    return target == "ort" and preset.activation != "float" and preset.activation_bits != 8


def float_reason(name: str, target: str, preset: Preset) -> str | None:
    """How the reason begins for which nodes of the model stay in float, or None where none does."""
    if name == "digits":
        return NO_FLOAT_CONV[target] if preset.activation == "float" else None
    return None  # ort takes the next width that it has


@pytest.mark.slow
@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("target", ["cpu", "ort"])
@pytest.mark.parametrize("name", ["digits", "charlm"])
def test_compiles_or_says_why(name: str, target: str, preset: str, tmp_path: Path) -> None:
    found, parsed = compiled(name, target, preset, tmp_path), Preset.parse(preset)
    if isinstance(found, str):
        lines = found.splitlines()
        assert is_refused(target, parsed) and lines[0] == NOTHING
        assert all("use --target cpu" in line for line in lines[1:] if "more" not in line)
        assert not list(tmp_path.iterdir())
        return
    assert not is_refused(target, parsed)
    assert found.content["preset"] == preset
    assert all(check["passed"] for check in found.measured["checks"])
    reasons = {row["reason"] for row in found.content["nodes"] if row["weight"] is None}
    expected = float_reason(name, target, parsed)
    if expected is None:
        assert reasons == set() and found.content["coverage"] == 1.0
    else:
        assert reasons and all(r.startswith(expected) for r in reasons)
