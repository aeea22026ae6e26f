# SPDX-License-Identifier: Apache-2.0
"""Every rule id that is cited stands in docs/numerics.md, and every rule there is cited."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("qcompile", "passes", "targets", "runtime_ops", "tests", "docs")
SUFFIXES = (".py", ".md", ".cc", ".h", ".inc")
CITED = re.compile(r"\bN(\d{1,2})\b")


def rules() -> set[int]:
    """The ids that docs/numerics.md defines."""
    text = (ROOT / "docs" / "numerics.md").read_text()
    return {int(number) for number in re.findall(r"^- \*\*N(\d+) ", text, re.MULTILINE)}


def sources() -> list[Path]:
    """The project's own files, without links, builds and the rules themselves."""
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES]
    return [p for p in found if p.name != "numerics.md" and "build" not in p.parts]


def test_cited_rules_exist() -> None:
    known, unknown = rules(), {}
    for path in sources():
        cited = {int(n) for n in CITED.findall(path.read_text())}
        if cited - known:
            unknown[str(path.relative_to(ROOT))] = sorted(cited - known)
    assert unknown == {}


def test_every_rule_is_cited() -> None:
    cited = {int(n) for p in sources() if p.suffix != ".md" for n in CITED.findall(p.read_text())}
    assert sorted(rules() - cited) == []


def test_rules_are_found() -> None:
    assert {1, 7, 10, 15, 20, 24} <= rules()
