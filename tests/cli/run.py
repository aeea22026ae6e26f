# SPDX-License-Identifier: Apache-2.0
"""Running the command line inside the test's process."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from qcompile import cli


@dataclass(frozen=True)
class Result:
    """What a command returned and wrote."""

    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """`qcompile ARGUMENTS`."""
    before = sys.argv
    sys.argv = ["qcompile", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
