# SPDX-License-Identifier: Apache-2.0
"""Every node test of the onnx package compiles, is left alone with its outputs, or is refused."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

import qcompile
from qcompile import measure
from tests.inputs.backend_cases import (
    LEFT_ALONE,
    NOT_RUN,
    QUANTIZED,
    REFUSALS,
    TAKEN,
    entry,
    fate,
    node_cases,
)

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
    assert set(counts) <= {QUANTIZED, LEFT_ALONE, NOT_RUN, *REFUSALS.values()}


# docs/inputs.md has them. 1.32 opens opsets 27 and 28, older ones do not.
ENTRIES = dict(zip([TAKEN, NOT_RUN, *REFUSALS.values()], [1761, 119, 3, 1], strict=True))


@pytest.mark.slow
@pytest.mark.skipif(
    not ort.__version__.startswith("1.32.") or onnx.__version__ != "1.23.2",
    reason="the counts are those of onnxruntime 1.32 and onnx 1.23.2",
)
def test_how_many_are_taken() -> None:
    assert Counter(entry(case) for case in node_cases()) == ENTRIES
