# SPDX-License-Identifier: Apache-2.0
"""Random graphs, recipes and targets compile and verify, or are refused with a reason."""

from collections import Counter
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, given

import qcompile
from qcompile import measure
from qcompile.errors import InputError, VerificationError
from qcompile.load import load
from qcompile.session import open_model, session_options
from tests.robustness.random_cases import Case, cases, graphs
from tests.robustness.random_graphs import RandomNet

COUNT = 40
LONG_COUNT, PARTS = 2000, 8


def fate(case: Case, folder: Path) -> str:
    """compiled, or refused where no product can be quantized; all else is a bug of qcompile."""
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
        assert str(error).startswith("nothing to quantize: ")
        return "refused"
    return "compiled"


def assert_right(seed: int, count: int, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Hypothesis shows the smallest case that fails; most of the others compile.

    Refused is what a target has no kernel for: convolutions of w4a16.
    """
    patch.setattr(measure, "SECONDS", 0.0)
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def each(case: Case) -> None:
        counts[fate(case, folder)] += 1

    each()
    assert counts.total() >= count
    assert counts["compiled"] > 2 * counts["refused"]


def test_random_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(0, COUNT, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_many_random_graphs(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_right(part, LONG_COUNT // PARTS, tmp_path, monkeypatch)


def test_graphs_shrink() -> None:
    def has_softmax(net: RandomNet) -> bool:
        return any(n.op_type == "Softmax" for n in net.nodes)

    settings = hypothesis.settings(derandomize=True, database=None, deadline=None)
    found = hypothesis.find(graphs(), has_softmax, settings=settings)
    assert len(found.nodes) <= 3


def test_a_wrong_artifact_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise VerificationError("one code is wrong")

    monkeypatch.setattr(qcompile, "compile", fail)
    with pytest.raises(VerificationError, match="one code is wrong"):
        assert_right(0, 2, tmp_path, monkeypatch)
