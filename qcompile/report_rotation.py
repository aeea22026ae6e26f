# SPDX-License-Identifier: Apache-2.0
"""Rotations in the report: every edge, what was measured on it, and what was decided."""

from typing import Any

COLUMNS = ("rotation", "of", "matrix", "SQNR dB", "kurtosis", "crest", "products", "decision")


def rotation_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row of COLUMNS for each edge of a manifest; figures are before → after."""
    return [_row(row) for row in rows]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    figures = [
        _change(row["before"], row["after"], key, digits)
        for key, digits in (("sqnr_db", 1), ("kurtosis", 2), ("crest", 2))
    ]
    text = row["transform"] or ""
    done = "scaled" if text.startswith("scales") else "rotated"
    done = "sorted" if text.startswith("order") else done
    done = "split" if text.startswith("token") else done
    how = f"{done} at run time" if row["is_online"] else done
    decision = f"{how}{'; ' * bool(row['reason'])}{row['reason']}"
    decided = decision if row["is_applied"] else row["reason"]
    matrix = row["transform"] or ""
    return row["value"], row["kind"], matrix, *figures, str(len(row["readers"])), decided


def _change(
    before: dict[str, Any] | None, after: dict[str, Any] | None, key: str, digits: int
) -> str:
    """`17.6 → 18.0`, or what there is of it."""
    found = [f"{float(each[key]):.{digits}f}" for each in (before, after) if each is not None]
    return " → ".join(found)
