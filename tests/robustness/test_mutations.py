# SPDX-License-Identifier: Apache-2.0
"""Damaged models, recipes and artifacts give an error: no crash, no hang, nothing left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.packaging.source_tree import ROOT
from tests.robustness.run_mutations import fault_list, seed_files
from tests.robustness.seeds import library_ops

SECONDS = 120  # for one mutation: a child that says nothing for so long hangs
COUNTS = {"recipe": 60, "artifact": 60, "model": 40}
LONG_COUNTS = {"recipe": 1700, "artifact": 1300, "model": 2000}  # 5,000, beside every fault
PARTS = 4  # of a long run
SOME_FAULTS = 97  # every so manieth in the short run
BATCH = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mutations")
    for name in ("seed", "temporary"):
        (made / name).mkdir()
    seed_files(made / "seed")
    return made


def failures(kind: str, numbers: range, folder: Path) -> Iterator[str]:
    """What went wrong, a line each; a child that dies is started again behind its mutation."""
    while numbers:
        first, last, step = numbers.start, numbers.stop, numbers.step
        command = [sys.executable, "-m", "tests.robustness.run_mutations"]
        arguments = [kind, str(first), str(last), str(step), str(folder)]
        try:
            done = subprocess.run(
                command + arguments,
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(folder / "temporary")},
                capture_output=True,
                text=True,
                timeout=SECONDS + 3 * len(numbers),
            )
            output, ended = done.stdout, f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as late:
            output, ended = (late.stdout or b"").decode(), "it hangs"
        lines = [line.split(" ", 1) for line in output.splitlines() if line[:1].isdigit()]
        yield from (f"{kind} {n}: {what}" for n, what in lines if what.startswith("WRONG"))
        number, what = lines[-1] if lines else (str(first), "start")
        if what == "start":
            yield f"{kind} {number}: {ended}"
        numbers = range(int(number) + step, last, step)


def wrong(kind: str, numbers: range, folder: Path) -> list[str]:
    found = []
    for i in range(0, len(numbers), BATCH):
        found += failures(kind, numbers[i : i + BATCH], folder)
    assert sorted(p.name for p in folder.iterdir()) == ["seed", "temporary"]
    left = {p.name for p in (folder / "temporary").iterdir()}
    assert left <= {".ses"}  # which ONNX Runtime 1.32 writes when it is imported
    return found


@pytest.mark.parametrize("kind", COUNTS)
def test_a_damaged_file_is_refused_or_harmless(kind: str, folder: Path) -> None:
    assert wrong(kind, range(COUNTS[kind]), folder) == []


def test_a_fault_of_an_artifact_is_refused_or_harmless(folder: Path) -> None:
    numbers = range(0, len(fault_list(folder / "seed")), SOME_FAULTS)
    assert wrong("fault", numbers, folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", LONG_COUNTS)
def test_many_damaged_files_are_refused_or_harmless(kind: str, part: int, folder: Path) -> None:
    assert wrong(kind, range(COUNTS[kind] + part, LONG_COUNTS[kind], PARTS), folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_fault_of_an_artifact_is_refused_or_harmless(part: int, folder: Path) -> None:
    numbers = range(part, len(fault_list(folder / "seed")), PARTS)
    assert wrong("fault", numbers, folder) == []


def test_the_artifacts_have_every_op_of_the_library(folder: Path) -> None:
    models = [onnx.load(p, load_external_data=False) for p in folder.rglob("model.onnx")]
    held = {n.op_type for m in models for n in m.graph.node if n.domain == "com.qcompile"}
    assert held == library_ops()


def test_a_crash_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "dies"))
    (folder / "dies").write_text("#!/bin/sh\necho $4 start\nkill -SEGV $$\n")
    (folder / "dies").chmod(0o700)
    found = list(failures("recipe", range(5, 9, 2), folder))
    (folder / "dies").unlink()
    assert found == ["recipe 5: exit code -11", "recipe 7: exit code -11"]
