# SPDX-License-Identifier: Apache-2.0
"""Every node test of the onnx package compiles, is left alone with its outputs, or is refused."""

from collections import Counter
from pathlib import Path

import onnx
import pytest

import qcompile
from qcompile import measure
from tests.inputs.backend_cases import LEFT_ALONE, NOT_RUN, QUANTIZED, REFUSED, fate, node_cases

PARTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_nodes(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)

    def compile_it(model: onnx.ModelProto) -> None:
        path = tmp_path / "m.onnx"
        onnx.save(model, path)
        recipe = qcompile.Recipe(preset="w8a8-dynamic")
        qcompile.compile(path, output=tmp_path / "m.qc", recipe=recipe, force=True)

    cases = node_cases()[part::PARTS]
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for case in cases:
        try:
            counts[fate(case, compile_it)] += 1
        except Exception as error:  # all are shown together
            wrong.append(f"{case.name}: {type(error).__name__}: {error}")
    assert wrong == []
    assert sum(counts.values()) == len(cases)
    assert set(counts) == {QUANTIZED, LEFT_ALONE, NOT_RUN, REFUSED}
