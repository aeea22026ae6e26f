# SPDX-License-Identifier: Apache-2.0
"""Large weights are checked in parts against the QDQ graph, as strictly as whole ones."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qcompile
from qcompile import verify_lowered
from qcompile.errors import VerificationError
from tests.pipeline.nets import Net, mlp, samples
from tests.pipeline.test_verify_fails import DYNAMIC, FLOAT, QDQ_FLOATS, TWINS, failed_rungs


@pytest.mark.parametrize("preset", [DYNAMIC, FLOAT])
def test_large_products_are_checked_in_parts(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 5 outputs of 64: as many values are compared, and a wrong Relu is seen."""
    path = mlp().save(tmp_path / "m.onnx")
    recipe = qcompile.Recipe(preset=preset)

    def compared() -> tuple[int, float]:
        found = qcompile.compile(
            path, recipe=recipe, calibration_data=samples(mlp()), output=tmp_path / "o", force=True
        )
        check = next(c for c in found.measured["checks"] if c["rung"] == QDQ_FLOATS)
        return check["count"], check["measured"]

    whole = compared()
    monkeypatch.setattr(verify_lowered, "_WHOLE_ELEMENTS", 64 * 5)
    parts = compared()
    assert parts[0] == whole[0] > 0
    assert 0 <= parts[1] <= 1
    twin = TWINS["lowered Relu" if preset == DYNAMIC else "lowered Relu of floats"]
    (tmp_path / "twin").mkdir()
    found = failed_rungs(twin[0], twin[1], preset, tmp_path / "twin", monkeypatch)
    assert QDQ_FLOATS in found


@pytest.mark.parametrize("shift", [0, 1])
def test_a_large_table_is_checked_by_the_rows_that_are_read(
    shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """shift 1, the twin: row 1 instead of row 0, which sorts alike."""
    net = Net()
    ids = net.input("ids", ["batch", 3], onnx.TensorProto.INT64)
    net.node("Gather", [net.weight("table", 40, 16), ids], "y")
    net.output("y", ["batch", 3, 16])
    path = net.save(tmp_path / "m.onnx")
    indices = np.array([[3, -1, 7], [0, 3, 39]])
    real = verify_lowered._row_parts

    def shifted(*args: Any) -> list[Any]:
        rows = real(*args)
        assert [r.tolist() for r in rows] == [[0, 3, 7, 39]]
        return [r + np.array([shift, 0, 0, 0]) for r in rows]

    monkeypatch.setattr(verify_lowered, "_WHOLE_ELEMENTS", 64)
    monkeypatch.setattr(verify_lowered, "_row_parts", shifted)

    def make() -> qcompile.Artifact:
        recipe = qcompile.Recipe(preset="w8a16")
        return qcompile.compile(path, recipe=recipe, calibration_data={"ids": indices})

    if shift:
        with pytest.raises(VerificationError, match=QDQ_FLOATS):
            make()
    else:
        check = next(c for c in make().measured["checks"] if c["rung"] == QDQ_FLOATS)
        assert check["count"] == 6 * 16
