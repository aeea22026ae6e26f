# SPDX-License-Identifier: Apache-2.0
"""The comparison with other tools: what is asked of whom, and when one is called better."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peer_child import Setting
from benchmarks.peer_tools import PACKAGES, interpreters

pytest.importorskip("PIL")
from benchmarks.peers import attempts, paired, verdict


def test_settings() -> None:
    assert Setting.parse("w4a4/8:cpu") == Setting("w4a4", 4, "4", 8, "cpu")
    assert Setting.parse("w4a4-dynamic") == Setting("w4a4-dynamic", 4, "4-dynamic", 4)


def test_every_tool_has_its_own_interpreter_or_this_one(tmp_path: Path) -> None:
    own = tmp_path / "nncf" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    found = interpreters(tmp_path, ["ort", "nncf"])
    assert found == {"ort": sys.executable, "nncf": str(own)}
    with pytest.raises(SystemExit, match="unknown tools torch: there are ort, "):
        interpreters(None, ["torch"])


def test_target_ort_takes_part_where_it_has_the_width() -> None:
    tools = dict.fromkeys(PACKAGES, "python")
    labels = [label for _, label, _, _ in attempts(tools, "w4a4/8")]
    assert labels.count("qcompile cpu w4a4/8") == 1 and "qcompile ort w4a4/8" not in labels
    assert "qcompile ort w8a8" in [label for _, label, _, _ in attempts(tools, "w8a8")]


def test_verdicts_are_paired() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 500)  # what both share is no noise of the difference
    assert verdict(*paired(base + rng.normal(0.2, 1, 500), base)) == "better"
    assert verdict(*paired(base - rng.normal(0.2, 1, 500), base)) == "worse"
    assert verdict(*paired(base + rng.normal(0, 10, 500), base)) == "equal within the noise"
