# SPDX-License-Identifier: Apache-2.0
"""How long speed is measured: a compilation ends with enough runs, a request lasts as it says."""

from typing import Any

import numpy as np
import pytest

from qcompile import measure


class Session:
    """Takes no time."""

    def get_inputs(self) -> list[Any]:
        return []

    def run(self, names: None, feed: dict[str, Any]) -> None:
        assert set(feed) == {"x"}


@pytest.mark.parametrize(
    ("asked", "milliseconds", "expected"),
    [(None, 0.4, 626), (None, 4.0, 251), (None, 400.0, 5), (0.5, 0.4, 1251), (0.0, 0.4, 5)],
)
def test_number_of_runs(
    monkeypatch: pytest.MonkeyPatch, asked: float | None, milliseconds: float, expected: int
) -> None:
    """The clock moves by a fifth of a pair of runs whenever it is asked."""
    ticks = iter(np.arange(10**6) * milliseconds / 1000 / 5)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(ticks)))
    found = measure.measure_speed(Session(), Session(), {"x": np.zeros(1)}, asked)  # type: ignore[arg-type]
    assert abs(found["runs"] - expected) <= 1
