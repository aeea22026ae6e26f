# SPDX-License-Identifier: Apache-2.0
"""Verdict: is it right? A line a check: what was measured, the limit, and where it comes from."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One rung. `measured` ≤ `limit` passes; both are in the unit that `source` names."""

    rung: str
    measured: float
    limit: float
    source: str
    worst: str = ""
    count: int = 0

    @property
    def passed(self) -> bool:
        """NaN fails."""
        return self.measured <= self.limit


@dataclass(frozen=True)
class Verdict:
    """All checks, and how the artifact compares with the user's model end to end."""

    checks: tuple[Check, ...]
    sqnr_db: float | None = None
    cosine: float | None = None
    worst_nodes: tuple[tuple[str, float], ...] = ()
    metric: dict[str, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(c for c in self.checks if not c.passed)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest's `measured` section."""
        data = asdict(self)
        for row, check in zip(data["checks"], self.checks, strict=True):
            row["passed"] = check.passed
        return data
