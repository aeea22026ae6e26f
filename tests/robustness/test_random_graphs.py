# SPDX-License-Identifier: Apache-2.0
"""Random graphs, recipes and targets compile and verify, or are refused with a reason."""

from collections import Counter
from pathlib import Path

import pytest

import qcompile
from qcompile import measure
from qcompile.errors import InputError, VerificationError
from qcompile.load import load
from qcompile.session import open_model, session_options
from tests.robustness.random_cases import Case, random_case, random_graph

COUNT = 60
LONG_COUNT = 2000
PARTS = 8


def fate(case: Case, folder: Path) -> str:
    """compiled, or refused and why; any other exception is a bug of qcompile."""
    path = case.net.save(folder / "m.onnx")
    open_model(load(path), session_options()).run(None, case.net.feed(3))
    try:
        qcompile.compile(
            path,
            case.target,
            folder / "m.qc",
            recipe=case.recipe,
            calibration_data=case.data,
            force=True,
        )
    except InputError as error:
        assert str(error).strip()
        return "refused"
    return "compiled"


def assert_right(seeds: range, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """All wrong seeds are shown together; most of the others compile."""
    patch.setattr(measure, "SECONDS", 0.0)
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for seed in seeds:
        try:
            counts[fate(random_case(seed), folder)] += 1
        except Exception as error:
            wrong.append(f"seed {seed}: {type(error).__name__}: {error}")
    assert wrong == []
    assert counts["compiled"] > 3 * counts["refused"]


def test_random_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(range(COUNT), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_random_graphs(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(range(COUNT + part, LONG_COUNT, PARTS), tmp_path, monkeypatch)


def test_a_seed_is_one_graph() -> None:
    assert random_graph(3).proto() == random_graph(3).proto()
    assert len(random_graph(3, 2).nodes) < len(random_graph(3).nodes)


def test_a_wrong_artifact_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise VerificationError("one code is wrong")

    monkeypatch.setattr(qcompile, "compile", fail)
    with pytest.raises(AssertionError, match="seed 3: VerificationError: one code is wrong"):
        assert_right(range(3, 4), tmp_path, monkeypatch)
