# SPDX-License-Identifier: Apache-2.0
"""The files of the source tree, each once: never through the symlinks inside qcompile/."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Folders of the package; passes is qcompile.passes, and so on.
PACKAGE_FOLDERS = ("qcompile", "passes", "targets", "runtime_ops")
FOLDERS = (*PACKAGE_FOLDERS, "models", "tests", "benchmarks")
CPP_SUFFIXES = (".cc", ".cpp", ".h", ".hpp", ".inc")


def files(*suffixes: str, folders: tuple[str, ...] = FOLDERS) -> list[Path]:
    """Every file with one of the suffixes, sorted."""
    return sorted(p for folder in folders for p in walk(ROOT / folder) if p.suffix in suffixes)


def walk(folder: Path) -> Iterator[Path]:
    """Every file below the folder, hidden ones and links left out."""
    for where, subfolders, names in os.walk(folder):
        subfolders[:] = [s for s in subfolders if not s.startswith((".", "__pycache__"))]
        yield from (Path(where, name) for name in names if not name.startswith("."))


def module_name(path: Path) -> str:
    """The name under which a file of the package is imported.

    >>> module_name(ROOT / "passes/lower/__init__.py")
    'qcompile.passes.lower'
    """
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "qcompile":
        parts = ("qcompile", *parts)
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    return {module_name(path): path for path in files(".py", folders=PACKAGE_FOLDERS)}
