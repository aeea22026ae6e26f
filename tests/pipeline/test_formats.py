# SPDX-License-Identifier: Apache-2.0
"""Every number format is compiled, run and verified in products and convolutions."""

from pathlib import Path

import pytest

import qcompile
from models.charlm import path as charlm
from models.digits import data
from models.digits import path as digits
from qcompile.errors import InputError
from qcompile.formats import FORMATS, get
from qcompile.formats.block import BLOCK_FORMATS, block_format
from qcompile.recipe import Recipe

EVERY = (*FORMATS, *BLOCK_FORMATS)
# every kind of scale and entry
SOME = ("e4m3", "posit8_0", "kmeans3", "nvfp4", "mxint8", "bitmod3", "bitmod4")


def compiled(name: str, preset: str, folder: Path) -> qcompile.Artifact:
    """A compilation verifies, and raises where the artifact is not what numerics says."""
    recipe = Recipe(preset, weight_format=name, edge_bits=4, effort="quick", rotation="off")
    out = folder / "out"
    if preset == "w4a16":
        return qcompile.compile(charlm(), "cpu", out, recipe=recipe)
    feed = {"image": data("calibration")[0][:32]}
    return qcompile.compile(digits(), "cpu", out, recipe=recipe, calibration_data=feed)


def check(name: str, preset: str, folder: Path) -> None:
    turns = get(block_format(name).element.name).turns
    if turns is not None and preset == "w4a8":
        with pytest.raises(InputError, match="turns inputs at run time"):
            compiled(name, preset, folder)
        return
    artifact = compiled(name, preset, folder)
    checks = artifact.measured["checks"]
    assert checks and all(check["passed"] for check in checks)
    assert artifact.content["coverage"] == 1
    specs = {row["weight"] for row in artifact.content["nodes"]}
    if block_format(name).element.is_fitted or turns is not None:
        return
    element = block_format(name).element
    named = element if preset == "w4a16" else element.in_int16()
    assert all(spec.startswith(f"{named}/") for spec in specs)
    if preset == "w4a8":  # one scale an output, whatever the block format says
        assert all("/axis(axis=0)/" in spec for spec in specs)


@pytest.mark.parametrize("preset", ["w4a16", "w4a8-dynamic", "w4a8"])
@pytest.mark.parametrize("name", SOME)
def test_some_formats_run(name: str, preset: str, tmp_path: Path) -> None:
    check(name, preset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["w4a16", "w4a8-dynamic", "w4a8"])
@pytest.mark.parametrize("name", [name for name in EVERY if name not in SOME])
def test_every_format_runs(name: str, preset: str, tmp_path: Path) -> None:
    check(name, preset, tmp_path)
