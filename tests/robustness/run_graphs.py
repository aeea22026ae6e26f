# SPDX-License-Identifier: Apache-2.0
"""The child process: compiles COUNT random graphs and prints how many were compiled and refused.

    python -m tests.robustness.run_graphs SEED COUNT FOLDER

Hypothesis draws constants that it reads in the modules of the process. In a process of its own the
graphs of a seed are the same whatever other tests ran before.
"""

import sys
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import hypothesis
from hypothesis import HealthCheck, given

import qcompile
from qcompile import measure
from qcompile.errors import InputError
from qcompile.load import load
from qcompile.session import open_model, session_options
from tests.robustness.random_cases import Case, cases


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


def fates(seed: int, count: int, folder: Path) -> Counter[str]:
    """How many graphs had each fate; Hypothesis shows the smallest case that fails."""
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

    with patch.object(measure, "SECONDS", 0.0):
        each()
    return counts


if __name__ == "__main__":
    found = fates(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(f"{found['compiled']} {found['refused']}\n")
