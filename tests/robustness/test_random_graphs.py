# SPDX-License-Identifier: Apache-2.0
"""Random graphs, recipes and targets compile and verify, or are refused with a reason."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

import qcompile
from qcompile.errors import VerificationError
from tests.robustness.random_cases import graphs
from tests.robustness.random_graphs import RandomNet
from tests.robustness.run_graphs import fates

ROOT = Path(__file__).parents[2]
COUNT = 24
LONG_COUNT, PARTS = 2000, 8


def assert_right(seed: int, count: int, folder: Path) -> None:
    """Most graphs compile; refused is what a target has no kernel for: convolutions of w4a16."""
    command = [sys.executable, "-m", "tests.robustness.run_graphs", str(seed), str(count)]
    run = subprocess.run([*command, str(folder)], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr
    compiled, refused = map(int, run.stdout.split()[-2:])
    assert compiled + refused >= count
    assert compiled > 2 * refused


def test_random_graphs(tmp_path: Path) -> None:
    assert_right(0, COUNT, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_many_random_graphs(part: int, tmp_path: Path) -> None:
    assert_right(part, LONG_COUNT // PARTS, tmp_path)


def test_graphs_shrink() -> None:
    def has_softmax(net: RandomNet) -> bool:
        return any(n.op_type == "Softmax" for n in net.nodes)

    # One graph in thirty has one; which are drawn depends on the modules that are loaded.
    settings = hypothesis.settings(
        derandomize=True, database=None, deadline=None, max_examples=2000
    )
    found = hypothesis.find(graphs(), has_softmax, settings=settings)
    assert len(found.nodes) <= 3


def test_a_wrong_artifact_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise VerificationError("one code is wrong")

    monkeypatch.setattr(qcompile, "compile", fail)
    with pytest.raises(VerificationError, match="one code is wrong"):
        fates(0, 2, tmp_path)
