# SPDX-License-Identifier: Apache-2.0
"""Random and damaged nodes of com.qcompile: a clear error, or what numerics says."""

from collections import Counter

import numpy as np
import pytest

from tests.robustness import op_fuzz, run_op_fuzz

COUNT = 4000


@pytest.mark.slow
def test_nodes_are_refused_or_right(tmp_path):
    found = list(run_op_fuzz.fates(0, COUNT, tmp_path))
    assert [(n, what) for n, what in found if what.startswith("WRONG")] == []
    assert [n for n, _ in found] == list(range(COUNT))
    counts = Counter(what for _, what in found)
    assert min(counts["fine"], counts["refused"]) >= COUNT // 4


def test_every_operator_is_made():
    made = {op_fuzz.make(number)[0].op for number in range(200)}
    assert made == {*run_op_fuzz.REFERENCES, "Quantize", "Dequantize"}


def unchanged() -> op_fuzz.Case:
    """A product that has to run."""
    return op_fuzz.matmul(np.random.default_rng(3))


def test_a_wrong_output_is_seen(monkeypatch):
    case = unchanged()
    assert run_op_fuzz.outcome(case, 0) == "fine"
    right = run_op_fuzz.outputs_of(case)
    assert right[0].size
    right[0].flat[-1] += np.asarray(100, right[0].dtype)
    monkeypatch.setattr(run_op_fuzz, "outputs_of", lambda _: right)
    assert run_op_fuzz.outcome(case, 0).startswith("WRONG QMatMul ")


def test_an_error_of_a_right_node_and_one_that_escapes_are_seen(monkeypatch):
    def fails(text):
        def outputs_of(_):
            raise RuntimeError(text)

        monkeypatch.setattr(run_op_fuzz, "outputs_of", outputs_of)

    fails("bits = 9 is not in 1 ... 8")
    assert run_op_fuzz.outcome(unchanged(), 1) == "refused"
    assert run_op_fuzz.outcome(unchanged(), 0).startswith("WRONG")
    fails("vector::_M_default_append")
    assert run_op_fuzz.outcome(unchanged(), 1).startswith("WRONG")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault,said", [("os.kill(os.getpid(), 11)", "exit code -11"), ("time.sleep(9)", "exit code 1")]
)
def test_a_crash_and_a_hang_are_seen(fault, said, tmp_path, monkeypatch):
    """Both nodes of the child end it; each is named and the next still runs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "from tests.robustness import op_fuzz\n"
        f"op_fuzz.make = lambda number: {fault}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{run_op_fuzz.ROOT}")
    monkeypatch.setenv("QC_FUZZ_SECONDS", "1")
    found = list(run_op_fuzz.fates(5, 7, tmp_path))
    assert [n for n, _ in found] == [5, 6]
    assert all(what.startswith(f"WRONG {said}") for _, what in found)
